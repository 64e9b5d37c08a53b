// What the ops ask of their arguments, and how they allocate results. For every op one function checks all arguments
// and returns what they say; its CPU and its CUDA launcher both begin with it and check nothing else, save what only
// one of them can see. The public Python functions raise TypeError or ValueError; these checks keep direct calls of the
// ops from reading memory that is not theirs.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "geometry/pooling.h"

namespace deconv_kernels {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using IntList = std::vector<int64_t>;

#define DK_CHECK(condition, ...) STD_TORCH_CHECK(condition, "ValueError: ", __VA_ARGS__)

// A (C, H, W) or (N, C, H, W) tensor. channels_last tells which of the two dense layouts the results take.
struct MapShape {
  int64_t images;
  int64_t channels;
  int64_t height;
  int64_t width;
  bool batched;
  bool channels_last;

  int64_t numel() const { return images * channels * height * width; }
  // Whether channels lie side by side in memory; both layouts of one channel are the same memory.
  bool channels_innermost() const { return channels_last && channels > 1; }
  MapShape resized(int64_t new_height, int64_t new_width) const {
    MapShape shape = *this;
    shape.height = new_height;
    shape.width = new_width;
    return shape;
  }
};

// A tensor can have lost its storage (as sharded training does between steps).
inline void check_memory(const char* name, const Tensor& tensor) {
  DK_CHECK(tensor.numel() == 0 || tensor.const_data_ptr() != nullptr, name, " has no memory behind it");
}

// Whether the strides of a (C, H, W) or (N, C, H, W) tensor rise from channels over columns and rows to images, gaps
// allowed: what makes ATen lay out its results channels_last.
inline bool is_channels_last(const Tensor& tensor) {
  const int64_t rank = tensor.dim();
  const int64_t of_channels = tensor.stride(rank - 3);
  if (of_channels == 0) return false;
  int64_t least = 0;
  for (const int64_t axis : {rank - 3, rank - 1, rank - 2}) {
    const int64_t stride = tensor.stride(axis), size = tensor.size(axis);
    if (size == 0 || stride < least) return false;
    least = size > 1 ? size * stride : stride;
  }
  // One element for all three, which says nothing.
  if (least == of_channels) return false;
  return rank == 3 || (tensor.size(0) > 0 && tensor.stride(0) >= least);
}

inline MapShape map_shape(const char* name, const Tensor& tensor) {
  const int64_t rank = tensor.dim();
  DK_CHECK(rank == 3 || rank == 4, name, " must have shape (C, H, W) or (N, C, H, W), got ", rank, " dimensions");
  MapShape shape{};
  shape.batched = rank == 4;
  shape.images = shape.batched ? tensor.size(0) : 1;
  shape.channels = tensor.size(rank - 3);
  shape.height = tensor.size(rank - 2);
  shape.width = tensor.size(rank - 1);
  DK_CHECK(shape.channels > 0 && shape.height > 0 && shape.width > 0, name,
           " may be empty only in its batch dimension");
  check_memory(name, tensor);
  shape.channels_last = is_channels_last(tensor);
  return shape;
}

// Strides of the dense layout that `shape` asks for, with one entry per dimension of the tensor.
inline std::array<int64_t, 4> dense_strides(const MapShape& shape) {
  const int64_t image = shape.channels * shape.height * shape.width;
  return shape.channels_last ? std::array<int64_t, 4>{image, 1, shape.width * shape.channels, shape.channels}
                             : std::array<int64_t, 4>{image, shape.height * shape.width, shape.width, 1};
}

inline int32_t dtype_code(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float:
      return aoti_torch_dtype_float32();
    case ScalarType::Double:
      return aoti_torch_dtype_float64();
    case ScalarType::Half:
      return aoti_torch_dtype_float16();
    case ScalarType::BFloat16:
      return aoti_torch_dtype_bfloat16();
    case ScalarType::Byte:
      return aoti_torch_dtype_uint8();
    case ScalarType::Short:
      return aoti_torch_dtype_int16();
    case ScalarType::Long:
      return aoti_torch_dtype_int64();
    default:
      DK_CHECK(false, "no op of deconv_kernels returns this dtype");
      return 0;
  }
}

// An uninitialised dense tensor of `shape` on the device of `like`.
inline Tensor empty_map(const MapShape& shape, ScalarType dtype, const Tensor& like) {
  const std::array<int64_t, 4> sizes{shape.images, shape.channels, shape.height, shape.width};
  const std::array<int64_t, 4> strides = dense_strides(shape);
  const int64_t unused = shape.batched ? 0 : 1;
  int32_t device_type = 0;
  int32_t device_index = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(4 - unused, sizes.data() + unused, strides.data() + unused,
                                                  dtype_code(dtype), device_type, device_index, &handle));
  return Tensor(handle);
}

// `tensor` itself where it is dense in the layout of `shape`, a copy in that layout otherwise.
inline Tensor dense(const Tensor& tensor, const MapShape& shape) {
  const std::array<int64_t, 4> sizes{shape.images, shape.channels, shape.height, shape.width};
  const std::array<int64_t, 4> strides = dense_strides(shape);
  bool is_dense = true;
  for (int64_t axis = shape.batched ? 0 : 1; axis < 4; ++axis) {
    is_dense = is_dense && (sizes[axis] == 1 || tensor.stride(shape.batched ? axis : axis - 1) == strides[axis]);
  }
  if (is_dense) return tensor;
  Tensor copy = empty_map(shape, tensor.scalar_type(), tensor);
  torch::stable::copy_(copy, tensor);
  return copy;
}

inline void check_same_map(const char* name, const MapShape& shape, const char* of, const MapShape& like) {
  DK_CHECK(shape.batched == like.batched && shape.images == like.images && shape.channels == like.channels &&
               shape.height == like.height && shape.width == like.width,
           name, " must have the shape of ", of);
}

inline void check_same_device(const char* name, const Tensor& tensor, const char* of, const Tensor& like) {
  DK_CHECK(tensor.device() == like.device(), name, " must be on the device of ", of);
}

inline void check_floating(const char* name, const Tensor& tensor) {
  const ScalarType dtype = tensor.scalar_type();
  DK_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::Half ||
               dtype == ScalarType::BFloat16,
           name, " must be float32, float64, float16 or bfloat16");
}

inline void check_dtype(const char* name, const Tensor& tensor, ScalarType dtype) {
  DK_CHECK(tensor.scalar_type() == dtype, name, " must be ", torch::headeronly::toString(dtype), ", got ",
           torch::headeronly::toString(tensor.scalar_type()));
}

inline ScalarType switch_dtype(const Pooling& pooling) {
  return pooling.y.kernel * pooling.x.kernel <= kLargestByteWindow ? ScalarType::Byte : ScalarType::Short;
}

inline int64_t checked_entry(const char* name, const IntList& values, size_t axis, int64_t smallest) {
  DK_CHECK(values.size() == 2, name, " must have two entries, got ", values.size());
  const int64_t value = values[axis];
  DK_CHECK(value >= smallest && value <= std::numeric_limits<int32_t>::max(), name, " must be at least ", smallest,
           " and below 2^31, got ", value);
  return value;
}

inline Axis make_axis(const IntList& kernel_size, const IntList& stride, const IntList& padding,
                      const IntList& dilation, size_t axis) {
  const Axis result{checked_entry("kernel_size", kernel_size, axis, 1), checked_entry("stride", stride, axis, 1),
                    checked_entry("padding", padding, axis, 0), checked_entry("dilation", dilation, axis, 1)};
  DK_CHECK(result.padding <= result.kernel / 2, "padding must be at most half the kernel size ", result.kernel,
           ", got ", result.padding);
  return result;
}

inline Pooling make_pooling(const IntList& kernel_size, const IntList& stride, const IntList& padding,
                            const IntList& dilation) {
  const Pooling pooling{make_axis(kernel_size, stride, padding, dilation, 0),
                        make_axis(kernel_size, stride, padding, dilation, 1)};
  DK_CHECK(pooling.y.kernel * pooling.x.kernel <= kLargestWindow, "kernel_size must have at most ", kLargestWindow,
           " positions, got ", pooling.y.kernel * pooling.x.kernel);
  return pooling;
}

// The map of `size` (y, x) pools to `pooled`, with or without ceil_mode.
inline MapShape checked_unpooled(const char* name, const IntList& size, const MapShape& pooled,
                                 const Pooling& pooling) {
  const MapShape shape = pooled.resized(checked_entry(name, size, 0, 1), checked_entry(name, size, 1, 1));
  const auto pools = [](int64_t from, int64_t to, const Axis& axis) {
    return pooled_size(from, axis, false) == to || pooled_size(from, axis, true) == to;
  };
  DK_CHECK(pools(shape.height, pooled.height, pooling.y) && pools(shape.width, pooled.width, pooling.x), name, " (",
           shape.height, ", ", shape.width, ") does not pool to (", pooled.height, ", ", pooled.width, ")");
  return shape;
}

inline MapShape checked_input(const Tensor& input) {
  check_floating("input", input);
  return map_shape("input", input);
}

inline bool overlap_is_last(const std::string& overlap) {
  DK_CHECK(overlap == "sum" || overlap == "last", "overlap must be \"sum\" or \"last\", got \"", overlap, "\"");
  return overlap == "last";
}

struct MaxPool2dCall {
  Pooling pooling;
  MapShape input;
  MapShape pooled;
};

inline MaxPool2dCall check_max_pool2d(const Tensor& input, const std::optional<Tensor>& bias,
                                      const IntList& kernel_size, const IntList& stride, const IntList& padding,
                                      const IntList& dilation, bool ceil_mode) {
  const Pooling pooling = make_pooling(kernel_size, stride, padding, dilation);
  const MapShape shape = checked_input(input);
  if (bias.has_value()) {
    DK_CHECK(bias->dim() == 1 && bias->size(0) == shape.channels, "bias must have one entry for each of ",
             shape.channels, " channels");
    check_dtype("bias", *bias, input.scalar_type());
    check_same_device("bias", *bias, "input", input);
    check_memory("bias", *bias);
  }
  const MapShape pooled =
      shape.resized(pooled_size(shape.height, pooling.y, ceil_mode), pooled_size(shape.width, pooling.x, ceil_mode));
  DK_CHECK(pooled.height > 0 && pooled.width > 0, "kernel_size (", pooling.y.kernel, ", ", pooling.x.kernel,
           ") does not fit input's (", shape.height, ", ", shape.width, ") map");
  return {pooling, shape, pooled};
}

struct MaxUnpool2dCall {
  Pooling pooling;
  MapShape input;
  MapShape unpooled;
  bool last;
};

inline MaxUnpool2dCall check_max_unpool2d(const Tensor& input, const Tensor& switches, const IntList& kernel_size,
                                          const IntList& stride, const IntList& padding, const IntList& dilation,
                                          const IntList& output_size, const std::string& overlap) {
  const Pooling pooling = make_pooling(kernel_size, stride, padding, dilation);
  const MapShape shape = checked_input(input);
  check_same_map("switches", map_shape("switches", switches), "input", shape);
  check_dtype("switches", switches, switch_dtype(pooling));
  check_same_device("switches", switches, "input", input);
  return {pooling, shape, checked_unpooled("output_size", output_size, shape, pooling), overlap_is_last(overlap)};
}

// (U, C, h, w) windows with the image and the place of each.
inline MapShape checked_windows(const Tensor& input, const Tensor& image, const Tensor& origin) {
  const MapShape windows = checked_input(input);
  DK_CHECK(windows.batched, "input must have shape (U, C, h, w)");
  DK_CHECK(image.dim() == 1 && image.size(0) == windows.images, "image must have shape (", windows.images, ",)");
  DK_CHECK(origin.dim() == 2 && origin.size(0) == windows.images && origin.size(1) == 2, "origin must have shape (",
           windows.images, ", 2)");
  check_dtype("image", image, ScalarType::Long);
  check_dtype("origin", origin, ScalarType::Long);
  check_same_device("image", image, "input", input);
  check_same_device("origin", origin, "input", input);
  check_memory("image", image);
  check_memory("origin", origin);
  return windows;
}

// The switches of the maps under windows, in the layout of the windows.
inline MapShape checked_maps(const Tensor& switches, const MapShape& windows, const Pooling& pooling,
                             const Tensor& input) {
  MapShape maps = map_shape("switches", switches);
  DK_CHECK(maps.batched && maps.channels == windows.channels,
           "switches must have shape (N, C, PH, PW) with C = ", windows.channels);
  check_dtype("switches", switches, switch_dtype(pooling));
  check_same_device("switches", switches, "input", input);
  maps.channels_last = windows.channels_last;
  return maps;
}

// What windows unpool to.
inline MapShape unpooled_windows(const MapShape& windows, const Pooling& pooling) {
  return windows.resized((windows.height - 1) * pooling.y.stride + extent(pooling.y),
                         (windows.width - 1) * pooling.x.stride + extent(pooling.x));
}

struct MaxUnpool2dWindowCall {
  Pooling pooling;
  MapShape input;
  MapShape maps;  // of the switches
  MapShape unpooled;
  bool last;
};

inline MaxUnpool2dWindowCall check_max_unpool2d_window(const Tensor& input, const Tensor& switches, const Tensor& image,
                                                       const Tensor& origin, const IntList& kernel_size,
                                                       const IntList& stride, const IntList& dilation,
                                                       const std::string& overlap) {
  const Pooling pooling = make_pooling(kernel_size, stride, {0, 0}, dilation);
  const MapShape windows = checked_windows(input, image, origin);
  const MapShape maps = checked_maps(switches, windows, pooling, input);
  return {pooling, windows, maps, unpooled_windows(windows, pooling), overlap_is_last(overlap)};
}

// A forward convolution, from `outputs` channels a group to all the `channels` of the signal.
struct Convolution {
  int64_t channels;
  int64_t outputs;
  int64_t groups;
  Pair kernel;
  Pair stride;
  Pair dilation;
};

inline Pair checked_pair(const char* name, const IntList& values, int64_t smallest) {
  return {checked_entry(name, values, 0, smallest), checked_entry(name, values, 1, smallest)};
}

inline Convolution check_pack_weight(const Tensor& weight, const IntList& stride, const IntList& dilation,
                                     int64_t groups) {
  check_floating("weight", weight);
  check_memory("weight", weight);
  DK_CHECK(weight.dim() == 4 && weight.numel() > 0, "weight must have shape (K, C / groups, kh, kw), not empty");
  DK_CHECK(groups >= 1 && weight.size(0) % groups == 0, "groups must divide weight's ", weight.size(0),
           " channels, got ", groups);
  return {weight.size(0),
          weight.size(1),
          groups,
          {weight.size(2), weight.size(3)},
          checked_pair("stride", stride, 1),
          checked_pair("dilation", dilation, 1)};
}

struct Backproject2dCall {
  Convolution convolution;
  std::optional<Pooling> pooling;  // where switches are given
  MapShape input;
  MapShape maps;  // of the switches
  bool last;
  Pair begin;
  Pair size;
  Pair base;
  Pair map_size;
};

inline Backproject2dCall check_backproject2d(const Tensor& input, const Tensor& weight, const Tensor& image,
                                             const Tensor& origin, const std::optional<Tensor>& switches,
                                             const IntList& kernel_size, const IntList& pool_stride,
                                             const IntList& pool_dilation, const std::string& overlap,
                                             const IntList& stride, const IntList& dilation, int64_t groups,
                                             const IntList& begin, const IntList& size, const IntList& base,
                                             const IntList& map_size) {
  Backproject2dCall call{};
  call.input = checked_windows(input, image, origin);
  call.convolution = check_pack_weight(weight, stride, dilation, groups);
  check_dtype("weight", weight, input.scalar_type());
  check_same_device("weight", weight, "input", input);
  DK_CHECK(call.convolution.channels == call.input.channels, "weight must have ", call.input.channels,
           " rows, one for each of input's channels, got ", call.convolution.channels);
  call.maps.channels_last = call.input.channels_last;
  if (switches.has_value()) {
    call.pooling = make_pooling(kernel_size, pool_stride, {0, 0}, pool_dilation);
    call.maps = checked_maps(*switches, call.input, *call.pooling, input);
  }
  call.last = overlap_is_last(overlap);
  call.begin = checked_pair("begin", begin, 0);
  call.size = checked_pair("size", size, 1);
  call.base = checked_pair("base", base, std::numeric_limits<int32_t>::min());
  call.map_size = checked_pair("map_size", map_size, -1);
  return call;
}

// What pack_weight returns for the weight at hand: `sizes` in `dtype`, without gaps.
inline void check_packed(const Tensor& packed, const IntList& sizes, ScalarType dtype, const Tensor& input) {
  bool is_like =
      packed.is_contiguous() && packed.dim() == static_cast<int64_t>(sizes.size()) && packed.scalar_type() == dtype;
  for (size_t axis = 0; is_like && axis < sizes.size(); ++axis) {
    is_like = packed.size(static_cast<int64_t>(axis)) == sizes[axis];
  }
  DK_CHECK(is_like, "packed must be what pack_weight makes of weight");
  check_same_device("packed", packed, "input", input);
  check_memory("packed", packed);
}

struct SwitchesCall {
  Pooling pooling;
  MapShape pooled;
  MapShape map;
};

inline SwitchesCall checked_conversion(const char* name, const Tensor& tensor, ScalarType dtype, const Pooling& pooling,
                                       const IntList& input_size) {
  const MapShape pooled = map_shape(name, tensor);
  check_dtype(name, tensor, dtype);
  return {pooling, pooled, checked_unpooled("input_size", input_size, pooled, pooling)};
}

inline SwitchesCall check_switches_to_indices(const Tensor& switches, const IntList& input_size,
                                              const IntList& kernel_size, const IntList& stride, const IntList& padding,
                                              const IntList& dilation) {
  const Pooling pooling = make_pooling(kernel_size, stride, padding, dilation);
  return checked_conversion("switches", switches, switch_dtype(pooling), pooling, input_size);
}

inline SwitchesCall check_indices_to_switches(const Tensor& indices, const IntList& input_size,
                                              const IntList& kernel_size, const IntList& stride, const IntList& padding,
                                              const IntList& dilation) {
  const Pooling pooling = make_pooling(kernel_size, stride, padding, dilation);
  return checked_conversion("indices", indices, ScalarType::Long, pooling, input_size);
}

}  // namespace deconv_kernels

// What the ops ask of their arguments. For every op one function takes the flat arguments of the schema, checks them
// all and returns what they say as one call; its CPU and its CUDA launcher take that call and check nothing else, save
// what only one of them can see. The public Python functions raise TypeError or ValueError; these checks keep direct
// calls of the ops from reading memory that is not theirs.
#pragma once

#include <torch/csrc/stable/library.h>

#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "geometry/convolution.h"
#include "maps.h"

namespace deconv_kernels {

using IntList = std::vector<int64_t>;

// The kernel of an op for the dispatcher. A call refers to its tensors, which outlive it here.
template <auto check, auto launch, typename = decltype(check)>
struct Checked;
template <auto check, auto launch, typename Call, typename... Arguments>
struct Checked<check, launch, Call (*)(Arguments...)> {
  static auto kernel(Arguments... arguments) { return launch(check(arguments...)); }
};

// A tensor can have lost its storage (as sharded training does between steps).
inline void check_memory(const char* name, const Tensor& tensor) {
  DK_CHECK(tensor.numel() == 0 || tensor.const_data_ptr() != nullptr, name, " has no memory behind it");
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
  const Tensor& input;
  const std::optional<Tensor>& bias;
  Pooling pooling;
  MapShape map;
  MapShape pooled;
  bool relu;
};

inline MaxPool2dCall check_max_pool2d(const Tensor& input, const std::optional<Tensor>& bias,
                                      const IntList& kernel_size, const IntList& stride, const IntList& padding,
                                      const IntList& dilation, bool ceil_mode, bool relu) {
  const Pooling pooling = make_pooling(kernel_size, stride, padding, dilation);
  const MapShape map = checked_input(input);
  if (bias.has_value()) {
    DK_CHECK(bias->dim() == 1 && bias->size(0) == map.channels, "bias must have one entry for each of ", map.channels,
             " channels");
    check_dtype("bias", *bias, input.scalar_type());
    check_same_device("bias", *bias, "input", input);
    check_memory("bias", *bias);
  }
  const MapShape pooled =
      map.resized(pooled_size(map.height, pooling.y, ceil_mode), pooled_size(map.width, pooling.x, ceil_mode));
  DK_CHECK(pooled.height > 0 && pooled.width > 0, "kernel_size (", pooling.y.kernel, ", ", pooling.x.kernel,
           ") does not fit input's (", map.height, ", ", map.width, ") map");
  return {input, bias, pooling, map, pooled, relu};
}

// Of whole maps, or of windows of them.
struct MaxUnpool2dCall {
  const Tensor& input;
  const Tensor& switches;
  Pooling pooling;
  MapShape pooled;  // of the input
  MapShape maps;    // of the switches
  MapShape unpooled;
  bool last;
  bool relu;
};

inline MaxUnpool2dCall check_max_unpool2d(const Tensor& input, const Tensor& switches, const IntList& kernel_size,
                                          const IntList& stride, const IntList& padding, const IntList& dilation,
                                          const IntList& output_size, const std::string& overlap, bool relu) {
  const Pooling pooling = make_pooling(kernel_size, stride, padding, dilation);
  const MapShape pooled = checked_input(input);
  check_same_map("switches", map_shape("switches", switches), "input", pooled);
  check_dtype("switches", switches, switch_dtype(pooling));
  check_same_device("switches", switches, "input", input);
  const MapShape unpooled = checked_unpooled("output_size", output_size, pooled, pooling);
  return {input, switches, pooling, pooled, pooled, unpooled, overlap_is_last(overlap), relu};
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
  return windows.resized(unpooled_size(windows.height, pooling.y), unpooled_size(windows.width, pooling.x));
}

struct MaxUnpool2dWindowCall : MaxUnpool2dCall {
  const Tensor& image;
  const Tensor& origin;
};

inline MaxUnpool2dWindowCall check_max_unpool2d_window(const Tensor& input, const Tensor& switches, const Tensor& image,
                                                       const Tensor& origin, const IntList& kernel_size,
                                                       const IntList& stride, const IntList& dilation,
                                                       const std::string& overlap, bool relu) {
  const Pooling pooling = make_pooling(kernel_size, stride, {0, 0}, dilation);
  const MapShape windows = checked_windows(input, image, origin);
  const MapShape maps = checked_maps(switches, windows, pooling, input);
  const MapShape unpooled = unpooled_windows(windows, pooling);
  return {{input, switches, pooling, windows, maps, unpooled, overlap_is_last(overlap), relu}, image, origin};
}

inline Pair checked_pair(const char* name, const IntList& values, int64_t smallest) {
  return {checked_entry(name, values, 0, smallest), checked_entry(name, values, 1, smallest)};
}

// Of a weight with `sizes` (K, C / groups, kh, kw).
inline Convolution checked_convolution(const std::array<int64_t, 4>& sizes, const IntList& stride,
                                       const IntList& dilation, int64_t groups) {
  DK_CHECK(groups >= 1 && sizes[0] % groups == 0, "groups must divide weight's ", sizes[0], " channels, got ", groups);
  const Pair step = checked_pair("stride", stride, 1), spread = checked_pair("dilation", dilation, 1);
  return {sizes[0], sizes[1], groups, {{sizes[2], step.y, 0, spread.y}, {sizes[3], step.x, 0, spread.x}}};
}

struct PackWeightCall {
  const Tensor& weight;
  Convolution convolution;
};

inline PackWeightCall check_pack_weight(const Tensor& weight, const IntList& stride, const IntList& dilation,
                                        int64_t groups) {
  check_floating("weight", weight);
  check_memory("weight", weight);
  DK_CHECK(weight.dim() == 4 && weight.numel() > 0, "weight must have shape (K, C / groups, kh, kw), not empty");
  const std::array<int64_t, 4> sizes{weight.size(0), weight.size(1), weight.size(2), weight.size(3)};
  return {weight, checked_convolution(sizes, stride, dilation, groups)};
}

// What pack_weight would pack, by the sizes of its weight.
struct PackedSizeCall {
  Convolution convolution;
  ScalarType dtype;
};

inline PackedSizeCall check_packed_size(const IntList& sizes, const IntList& stride, const IntList& dilation,
                                        int64_t groups, bool float64) {
  DK_CHECK(sizes.size() == 4, "weight_size must have four entries, got ", sizes.size());
  const std::array<int64_t, 4> of_weight{sizes[0], sizes[1], sizes[2], sizes[3]};
  return {checked_convolution(of_weight, stride, dilation, groups), float64 ? ScalarType::Double : ScalarType::Float};
}

struct Backproject2dCall {
  const Tensor& input;
  const Tensor& weight;
  const Tensor& image;
  const Tensor& origin;
  const std::optional<Tensor>& switches;
  const std::optional<Tensor>& packed;
  Convolution convolution;
  Pooling pooling;  // of one position where no switches are given
  MapShape windows;
  MapShape maps;  // of the switches
  bool last;
  bool relu;
  Placement placement;
};

inline Backproject2dCall check_backproject2d(const Tensor& input, const Tensor& weight, const Tensor& image,
                                             const Tensor& origin, const std::optional<Tensor>& switches,
                                             const std::optional<Tensor>& packed, const IntList& pool_kernel_size,
                                             const IntList& pool_stride, const IntList& pool_dilation,
                                             const std::string& overlap, bool relu, const IntList& stride,
                                             const IntList& dilation, int64_t groups, const IntList& begin,
                                             const IntList& size, const IntList& base, const IntList& map_size) {
  const MapShape windows = checked_windows(input, image, origin);
  const Convolution convolution = check_pack_weight(weight, stride, dilation, groups).convolution;
  check_dtype("weight", weight, input.scalar_type());
  check_same_device("weight", weight, "input", input);
  DK_CHECK(convolution.channels == windows.channels, "weight must have ", windows.channels,
           " rows, one for each of input's channels, got ", convolution.channels);
  Pooling pooling{{1, 1, 0, 1}, {1, 1, 0, 1}};
  MapShape maps{};
  maps.channels_last = windows.channels_last;
  if (switches.has_value()) {
    pooling = make_pooling(pool_kernel_size, pool_stride, {0, 0}, pool_dilation);
    maps = checked_maps(*switches, windows, pooling, input);
  }
  const bool last = overlap_is_last(overlap);
  const Placement placement{checked_pair("begin", begin, 0), checked_pair("size", size, 1),
                            checked_pair("base", base, std::numeric_limits<int32_t>::min()),
                            checked_pair("map_size", map_size, -1)};
  return {input, weight, image, origin, switches, packed, convolution, pooling, windows, maps, last, relu, placement};
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

// Between switches and indices.
struct SwitchesCall {
  const Tensor& from;
  Pooling pooling;
  MapShape pooled;
  MapShape map;
};

inline SwitchesCall check_switches_to_indices(const Tensor& switches, const IntList& input_size,
                                              const IntList& kernel_size, const IntList& stride, const IntList& padding,
                                              const IntList& dilation) {
  const Pooling pooling = make_pooling(kernel_size, stride, padding, dilation);
  const MapShape pooled = map_shape("switches", switches);
  check_dtype("switches", switches, switch_dtype(pooling));
  return {switches, pooling, pooled, checked_unpooled("input_size", input_size, pooled, pooling)};
}

inline SwitchesCall check_indices_to_switches(const Tensor& indices, const IntList& input_size,
                                              const IntList& kernel_size, const IntList& stride, const IntList& padding,
                                              const IntList& dilation) {
  const Pooling pooling = make_pooling(kernel_size, stride, padding, dilation);
  const MapShape pooled = map_shape("indices", indices);
  check_dtype("indices", indices, ScalarType::Long);
  return {indices, pooling, pooled, checked_unpooled("input_size", input_size, pooled, pooling)};
}

}  // namespace deconv_kernels

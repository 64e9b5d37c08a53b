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

inline MapShape map_shape(const char* name, const Tensor& tensor, int rank) {
  const int64_t dimensions = tensor.dim(), first = dimensions - rank;
  DK_CHECK(first == 1 || first == 2, name, " must have shape ",
           rank == 2 ? "(C, H, W) or (N, C, H, W)" : "(C, D, H, W) or (N, C, D, H, W)", ", got ", dimensions,
           " dimensions");
  MapShape shape{};
  shape.rank = rank;
  shape.batched = first == 2;
  shape.images = shape.batched ? tensor.size(0) : 1;
  shape.channels = tensor.size(first - 1);
  shape.depth = rank == 3 ? tensor.size(first) : 1;
  shape.height = tensor.size(dimensions - 2);
  shape.width = tensor.size(dimensions - 1);
  DK_CHECK(shape.channels > 0 && shape.depth > 0 && shape.height > 0 && shape.width > 0, name,
           " may be empty only in its batch dimension");
  check_memory(name, tensor);
  shape.channels_last = is_channels_last(tensor, rank);
  return shape;
}

inline void check_same_map(const char* name, const MapShape& shape, const char* of, const MapShape& like) {
  DK_CHECK(shape.batched == like.batched && shape.images == like.images && shape.channels == like.channels &&
               shape.depth == like.depth && shape.height == like.height && shape.width == like.width,
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

// The size of a map as it is written in an error.
inline std::string text(const MapShape& shape) {
  std::string sizes = "(";
  if (shape.rank == 3) sizes.append(std::to_string(shape.depth)).append(", ");
  return sizes.append(std::to_string(shape.height)).append(", ").append(std::to_string(shape.width)).append(")");
}

inline ScalarType switch_dtype(const Pooling& pooling) {
  return pooling.taps() <= kLargestByteWindow ? ScalarType::Byte : ScalarType::Short;
}

inline void check_entry(const char* name, int64_t value, int64_t smallest) {
  DK_CHECK(value >= smallest && value <= std::numeric_limits<int32_t>::max(), name, " must be at least ", smallest,
           " and below 2^31, got ", value);
}

// One entry for each of the `rank` axes, none below `smallest`. Along an axis that is not there it is `absent`.
inline PerAxis checked_entries(const char* name, const IntList& values, int rank, int64_t smallest, int64_t absent) {
  DK_CHECK(values.size() == static_cast<size_t>(rank), name, " must have ", rank, " entries, got ", values.size());
  for (const int64_t value : values) check_entry(name, value, smallest);
  return {rank == 3 ? values[0] : absent, values[values.size() - 2], values[values.size() - 1]};
}

inline Pooling make_pooling(int rank, const IntList& kernel_size, const IntList& stride, const IntList& padding,
                            const IntList& dilation) {
  const PerAxis kernel = checked_entries("kernel_size", kernel_size, rank, 1, 1);
  const PerAxis step = checked_entries("stride", stride, rank, 1, 1);
  const PerAxis pad = checked_entries("padding", padding, rank, 0, 0);
  const PerAxis spread = checked_entries("dilation", dilation, rank, 1, 1);
  const Pooling pooling{
      {kernel.z, step.z, pad.z, spread.z}, {kernel.y, step.y, pad.y, spread.y}, {kernel.x, step.x, pad.x, spread.x}};
  for (const Axis& axis : {pooling.z, pooling.y, pooling.x}) {
    DK_CHECK(axis.padding <= axis.kernel / 2, "padding must be at most half the kernel size ", axis.kernel, ", got ",
             axis.padding);
  }
  // Taken one by one, no product overflows.
  const bool fits = kernel.z <= kLargestWindow && kernel.y <= kLargestWindow / kernel.z &&
                    kernel.x <= kLargestWindow / (kernel.z * kernel.y);
  DK_CHECK(fits, "kernel_size must have at most ", kLargestWindow, " positions");
  return pooling;
}

// The map of `size` pools to `pooled`, with or without ceil_mode.
inline MapShape checked_unpooled(const char* name, const IntList& size, const MapShape& pooled,
                                 const Pooling& pooling) {
  const MapShape shape = pooled.resized(checked_entries(name, size, pooled.rank, 1, 1));
  const auto pools = [](int64_t from, int64_t to, const Axis& axis) {
    return pooled_size(from, axis, false) == to || pooled_size(from, axis, true) == to;
  };
  DK_CHECK(pools(shape.depth, pooled.depth, pooling.z) && pools(shape.height, pooled.height, pooling.y) &&
               pools(shape.width, pooled.width, pooling.x),
           name, " ", text(shape), " does not pool to ", text(pooled));
  return shape;
}

inline MapShape checked_input(const Tensor& input, int rank) {
  check_floating("input", input);
  return map_shape("input", input, rank);
}

inline bool overlap_is_last(const std::string& overlap) {
  DK_CHECK(overlap == "sum" || overlap == "last", "overlap must be \"sum\" or \"last\", got \"", overlap, "\"");
  return overlap == "last";
}

struct MaxPoolCall {
  const Tensor& input;
  const std::optional<Tensor>& bias;
  Pooling pooling;
  MapShape map;
  MapShape pooled;
  bool relu;
};

template <int rank>
MaxPoolCall check_max_pool(const Tensor& input, const std::optional<Tensor>& bias, const IntList& kernel_size,
                           const IntList& stride, const IntList& padding, const IntList& dilation, bool ceil_mode,
                           bool relu) {
  const Pooling pooling = make_pooling(rank, kernel_size, stride, padding, dilation);
  const MapShape map = checked_input(input, rank);
  if (bias.has_value()) {
    DK_CHECK(bias->dim() == 1 && bias->size(0) == map.channels, "bias must have one entry for each of ", map.channels,
             " channels");
    check_dtype("bias", *bias, input.scalar_type());
    check_same_device("bias", *bias, "input", input);
    check_memory("bias", *bias);
  }
  const MapShape pooled =
      map.resized({pooled_size(map.depth, pooling.z, ceil_mode), pooled_size(map.height, pooling.y, ceil_mode),
                   pooled_size(map.width, pooling.x, ceil_mode)});
  DK_CHECK(pooled.depth > 0 && pooled.height > 0 && pooled.width > 0, "kernel_size does not fit input's ", text(map),
           " map");
  return {input, bias, pooling, map, pooled, relu};
}

// Of whole maps, or of windows of them.
struct MaxUnpoolCall {
  const Tensor& input;
  const Tensor& switches;
  Pooling pooling;
  MapShape pooled;  // of the input
  MapShape maps;    // of the switches
  MapShape unpooled;
  bool last;
  bool relu;
};

template <int rank>
MaxUnpoolCall check_max_unpool(const Tensor& input, const Tensor& switches, const IntList& kernel_size,
                               const IntList& stride, const IntList& padding, const IntList& dilation,
                               const IntList& output_size, const std::string& overlap, bool relu) {
  const Pooling pooling = make_pooling(rank, kernel_size, stride, padding, dilation);
  const MapShape pooled = checked_input(input, rank);
  check_same_map("switches", map_shape("switches", switches, rank), "input", pooled);
  check_dtype("switches", switches, switch_dtype(pooling));
  check_same_device("switches", switches, "input", input);
  const MapShape unpooled = checked_unpooled("output_size", output_size, pooled, pooling);
  return {input, switches, pooling, pooled, pooled, unpooled, overlap_is_last(overlap), relu};
}

// (U, C, h, w) or (U, C, d, h, w) windows with the image and the place of each.
inline MapShape checked_windows(const Tensor& input, const Tensor& image, const Tensor& origin, int rank) {
  const MapShape windows = checked_input(input, rank);
  DK_CHECK(windows.batched, "input must have shape ", rank == 2 ? "(U, C, h, w)" : "(U, C, d, h, w)");
  DK_CHECK(image.dim() == 1 && image.size(0) == windows.images, "image must have shape (", windows.images, ",)");
  DK_CHECK(origin.dim() == 2 && origin.size(0) == windows.images && origin.size(1) == rank, "origin must have shape (",
           windows.images, ", ", rank, ")");
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
  MapShape maps = map_shape("switches", switches, windows.rank);
  DK_CHECK(maps.batched && maps.channels == windows.channels, "switches must have shape ",
           maps.rank == 2 ? "(N, C, PH, PW)" : "(N, C, PD, PH, PW)", " with C = ", windows.channels);
  check_dtype("switches", switches, switch_dtype(pooling));
  check_same_device("switches", switches, "input", input);
  maps.channels_last = windows.channels_last;
  return maps;
}

// What windows unpool to.
inline MapShape unpooled_windows(const MapShape& windows, const Pooling& pooling) {
  return windows.resized({unpooled_size(windows.depth, pooling.z), unpooled_size(windows.height, pooling.y),
                          unpooled_size(windows.width, pooling.x)});
}

struct MaxUnpoolWindowCall : MaxUnpoolCall {
  const Tensor& image;
  const Tensor& origin;
};

template <int rank>
MaxUnpoolWindowCall check_max_unpool_window(const Tensor& input, const Tensor& switches, const Tensor& image,
                                            const Tensor& origin, const IntList& kernel_size, const IntList& stride,
                                            const IntList& dilation, const std::string& overlap, bool relu) {
  const Pooling pooling = make_pooling(rank, kernel_size, stride, IntList(rank, 0), dilation);
  const MapShape windows = checked_windows(input, image, origin, rank);
  const MapShape maps = checked_maps(switches, windows, pooling, input);
  const MapShape unpooled = unpooled_windows(windows, pooling);
  return {{input, switches, pooling, windows, maps, unpooled, overlap_is_last(overlap), relu}, image, origin};
}

// Of a weight with `sizes` (K, C / groups, kh, kw) or (K, C / groups, kd, kh, kw).
inline Convolution checked_convolution(const IntList& sizes, const IntList& stride, const IntList& dilation,
                                       int64_t groups) {
  DK_CHECK(groups >= 1 && sizes[0] % groups == 0, "groups must divide weight's ", sizes[0], " channels, got ", groups);
  const int rank = static_cast<int>(sizes.size()) - 2;
  const PerAxis kernel{rank == 3 ? sizes[2] : 1, sizes[sizes.size() - 2], sizes[sizes.size() - 1]};
  const PerAxis step = checked_entries("stride", stride, rank, 1, 1);
  const PerAxis spread = checked_entries("dilation", dilation, rank, 1, 1);
  return {sizes[0],
          sizes[1],
          groups,
          {{kernel.z, step.z, 0, spread.z}, {kernel.y, step.y, 0, spread.y}, {kernel.x, step.x, 0, spread.x}}};
}

struct PackWeightCall {
  const Tensor& weight;
  Convolution convolution;
};

inline PackWeightCall check_pack_weight(const Tensor& weight, const IntList& stride, const IntList& dilation,
                                        int64_t groups) {
  check_floating("weight", weight);
  check_memory("weight", weight);
  DK_CHECK((weight.dim() == 4 || weight.dim() == 5) && weight.numel() > 0,
           "weight must have shape (K, C / groups, kh, kw) or (K, C / groups, kd, kh, kw), not empty");
  IntList sizes;
  for (int64_t axis = 0; axis < weight.dim(); ++axis) sizes.push_back(weight.size(axis));
  return {weight, checked_convolution(sizes, stride, dilation, groups)};
}

// What pack_weight would pack, by the sizes of its weight.
struct PackedSizeCall {
  Convolution convolution;
  ScalarType dtype;
};

inline PackedSizeCall check_packed_size(const IntList& sizes, const IntList& stride, const IntList& dilation,
                                        int64_t groups, bool float64) {
  DK_CHECK(sizes.size() == 4 || sizes.size() == 5, "weight_size must have four or five entries, got ", sizes.size());
  return {checked_convolution(sizes, stride, dilation, groups), float64 ? ScalarType::Double : ScalarType::Float};
}

struct BackprojectCall {
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

template <int rank>
BackprojectCall check_backproject(const Tensor& input, const Tensor& weight, const Tensor& image, const Tensor& origin,
                                  const std::optional<Tensor>& switches, const std::optional<Tensor>& packed,
                                  const IntList& pool_kernel_size, const IntList& pool_stride,
                                  const IntList& pool_dilation, const std::string& overlap, bool relu,
                                  const IntList& stride, const IntList& dilation, int64_t groups, const IntList& begin,
                                  const IntList& size, const IntList& base, const IntList& map_size) {
  const MapShape windows = checked_windows(input, image, origin, rank);
  DK_CHECK(weight.dim() == rank + 2, "weight must have ", rank + 2, " dimensions, got ", weight.dim());
  const Convolution convolution = check_pack_weight(weight, stride, dilation, groups).convolution;
  check_dtype("weight", weight, input.scalar_type());
  check_same_device("weight", weight, "input", input);
  DK_CHECK(convolution.channels == windows.channels, "weight must have ", windows.channels,
           " rows, one for each of input's channels, got ", convolution.channels);
  Pooling pooling{kOnePosition, kOnePosition, kOnePosition};
  MapShape maps = windows.resized({0, 0, 0});
  maps.images = 0;
  if (switches.has_value()) {
    pooling = make_pooling(rank, pool_kernel_size, pool_stride, IntList(rank, 0), pool_dilation);
    maps = checked_maps(*switches, windows, pooling, input);
  }
  const bool last = overlap_is_last(overlap);
  // Along an axis that is not there a result is one position, the first, on a map without end.
  const Placement placement{checked_entries("begin", begin, rank, 0, 0), checked_entries("size", size, rank, 1, 1),
                            checked_entries("base", base, rank, std::numeric_limits<int32_t>::min(), 0),
                            checked_entries("map_size", map_size, rank, -1, -1)};
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

// Two or three, as many entries as a kernel size has.
inline int rank_of(const IntList& kernel_size) {
  DK_CHECK(kernel_size.size() == 2 || kernel_size.size() == 3, "kernel_size must have two or three entries, got ",
           kernel_size.size());
  return static_cast<int>(kernel_size.size());
}

inline SwitchesCall check_switches_to_indices(const Tensor& switches, const IntList& input_size,
                                              const IntList& kernel_size, const IntList& stride, const IntList& padding,
                                              const IntList& dilation) {
  const int rank = rank_of(kernel_size);
  const Pooling pooling = make_pooling(rank, kernel_size, stride, padding, dilation);
  const MapShape pooled = map_shape("switches", switches, rank);
  check_dtype("switches", switches, switch_dtype(pooling));
  return {switches, pooling, pooled, checked_unpooled("input_size", input_size, pooled, pooling)};
}

inline SwitchesCall check_indices_to_switches(const Tensor& indices, const IntList& input_size,
                                              const IntList& kernel_size, const IntList& stride, const IntList& padding,
                                              const IntList& dilation) {
  const int rank = rank_of(kernel_size);
  const Pooling pooling = make_pooling(rank, kernel_size, stride, padding, dilation);
  const MapShape pooled = map_shape("indices", indices, rank);
  check_dtype("indices", indices, ScalarType::Long);
  return {indices, pooling, pooled, checked_unpooled("input_size", input_size, pooled, pooling)};
}

}  // namespace deconv_kernels

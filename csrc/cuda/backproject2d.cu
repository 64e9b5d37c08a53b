#include <optional>

#include "backproject2d.cuh"
#include "launch.h"

namespace deconv_kernels::cuda {
namespace {

// The weight as (kernel_y, kernel_x, K, C / groups).
MapShape packed_shape(const MapShape& weight) {
  return {weight.height, weight.width, weight.images, weight.channels, true, false};
}

MapShape weight_shape(const Tensor& weight, int64_t groups) {
  const MapShape shape = map_shape("weight", weight);
  DK_CHECK(shape.batched && shape.images > 0, "weight must have shape (K, C / groups, kernel_y, kernel_x)");
  check_floating("weight", weight);
  DK_CHECK(groups >= 1 && shape.images % groups == 0, "groups must divide the ", shape.images,
           " channels that weight maps to, got ", groups);
  return shape;
}

Axis make_convolution_axis(int64_t kernel, const IntList& stride, const IntList& dilation, size_t axis) {
  return {kernel, checked_entry("stride", stride, axis, 1), 0, checked_entry("dilation", dilation, axis, 1)};
}

Strides strides_of(const MapShape& shape) {
  return Strides(shape.channels, shape.height, shape.width, shape.channels_last);
}

Tensor packed_copy(const Tensor& weight, const MapShape& shape) {
  Tensor packed = empty_map(packed_shape(shape), weight.scalar_type(), weight);
  const std::array<int64_t, 4> sizes{shape.images, shape.channels, shape.height, shape.width};
  const int64_t tap = shape.images * shape.channels;
  const std::array<int64_t, 4> strides{shape.channels, 1, shape.width * tap, tap};
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_as_strided(packed.get(), sizes.data(), strides.data(), &handle));
  Tensor unpacked(handle);
  torch::stable::copy_(unpacked, weight);
  return packed;
}

Tensor pack_weight(const Tensor& weight, const IntList&, const IntList&, int64_t groups) {
  const MapShape shape = weight_shape(weight, groups);
  const torch::stable::accelerator::DeviceGuard guard(weight.get_device_index());
  return packed_copy(weight, shape);
}

// One axis of the windows, as far as the arguments tell.
BackprojectAxis make_backproject_axis(size_t axis, int64_t pooled, int64_t switches, const IntList& begin,
                                      const IntList& size, const IntList& base, const IntList& map_size) {
  DK_CHECK(base.size() == 2 && map_size.size() == 2, "base and map_size must have two entries");
  BackprojectAxis result{};
  result.pooled = pooled;
  result.switches = switches;
  result.begin = checked_entry("begin", begin, axis, 0);
  result.size = checked_entry("size", size, axis, 1);
  result.base = base[axis];
  result.map_size = map_size[axis];
  return result;
}

Tensor backproject2d(const Tensor& input, const Tensor& weight, const Tensor& image, const Tensor& origin,
                     const std::optional<Tensor>& switches, const std::optional<Tensor>& packed,
                     const IntList& kernel_size, const IntList& pool_stride, const IntList& pool_dilation,
                     const std::string& overlap, bool relu, const IntList& stride, const IntList& dilation,
                     int64_t groups, const IntList& begin, const IntList& size, const IntList& base,
                     const IntList& map_size) {
  const MapShape windows = map_shape("input", input);
  const MapShape taps = weight_shape(weight, groups);
  DK_CHECK(windows.batched && windows.channels == taps.images,
           "input must have shape (U, K, h, w) with K = ", taps.images);
  check_floating("input", input);
  check_dtype("weight", weight, input.scalar_type());
  check_dtype("image", image, ScalarType::Long);
  check_dtype("origin", origin, ScalarType::Long);
  check_same_device("weight", weight, "input", input);
  check_same_device("image", image, "input", input);
  check_same_device("origin", origin, "input", input);
  DK_CHECK(image.dim() == 1 && image.size(0) == windows.images, "image must have shape (U,) with U = ", windows.images);
  DK_CHECK(origin.dim() == 2 && origin.size(0) == windows.images && origin.size(1) == 2,
           "origin must have shape (U, 2) with U = ", windows.images);
  const Pooling convolution{make_convolution_axis(taps.height, stride, dilation, 0),
                            make_convolution_axis(taps.width, stride, dilation, 1)};
  Pooling pooling{{1, 1, 0, 1}, {1, 1, 0, 1}};
  MapShape maps{};
  maps.channels_last = windows.channels_last;
  if (switches.has_value()) {
    pooling = make_pooling(kernel_size, pool_stride, {0, 0}, pool_dilation);
    maps = map_shape("switches", *switches);
    DK_CHECK(maps.batched && maps.channels == windows.channels,
             "switches must have shape (N, K, PH, PW) with K = ", windows.channels);
    check_dtype("switches", *switches, switch_dtype(pooling));
    check_same_device("switches", *switches, "input", input);
    maps.channels_last = windows.channels_last;
  }
  if (packed.has_value()) {
    check_dtype("packed", *packed, input.scalar_type());
    check_same_device("packed", *packed, "input", input);
    check_same_map("packed", map_shape("packed", *packed), "pack_weight(weight)", packed_shape(taps));
  }
  const bool last = overlap_is_last(overlap);
  const BackprojectAxis y = make_backproject_axis(0, windows.height, maps.height, begin, size, base, map_size);
  const BackprojectAxis x = make_backproject_axis(1, windows.width, maps.width, begin, size, base, map_size);
  MapShape shape = windows.resized(y.size, x.size);
  shape.channels = taps.channels * groups;

  const torch::stable::accelerator::DeviceGuard guard(input.get_device_index());
  const Tensor values = dense(input, windows);
  const Tensor codes = switches.has_value() ? dense(*switches, maps) : Tensor();
  const Tensor weights = packed.has_value() ? torch::stable::contiguous(*packed) : packed_copy(weight, taps);
  const Tensor images = torch::stable::contiguous(image);
  const Tensor origins = torch::stable::contiguous(origin);
  Tensor output = empty_map(shape, input.scalar_type(), input);
  const Launcher launcher(input.get_device_index());
  with_type(input.scalar_type(), [&]<typename T>() {
    Backproject2d<T> op{};
    op.input = data_of<T>(values);
    op.switches = switches.has_value() ? codes.const_data_ptr() : nullptr;
    op.two_byte_switches = switch_dtype(pooling) == ScalarType::Short;
    op.image = data_of<int64_t>(images);
    op.origin = data_of<int64_t>(origins);
    op.packed = data_of<T>(weights);
    op.output = mutable_data_of<T>(output);
    op.input_strides = strides_of(windows);
    op.switch_strides = strides_of(maps);
    op.output_strides = strides_of(shape);
    op.units = windows.images;
    op.images = maps.images;
    op.inputs = windows.channels;
    op.group_inputs = windows.channels / groups;
    op.group_outputs = taps.channels;
    op.groups = Divider(groups);
    op.y = y;
    op.x = x;
    op.last = last;
    op.relu = relu;
    op.bounded = map_size[0] != -1 || map_size[1] != -1;
    launch_backproject2d(op, pooling, convolution, Path::kAutomatic, launcher);
  });
  return output;
}

}  // namespace
}  // namespace deconv_kernels::cuda

STABLE_TORCH_LIBRARY_IMPL(deconv_kernels, CUDA, m) {
  m.impl("backproject2d", TORCH_BOX(&deconv_kernels::cuda::backproject2d));
  m.impl("pack_weight", TORCH_BOX(&deconv_kernels::cuda::pack_weight));
}

#include <optional>

#include "backproject2d.cuh"
#include "launch.h"

namespace deconv_kernels::cuda {
namespace {

Strides strides_of(const MapShape& shape) {
  return Strides(shape.channels, shape.height, shape.width, shape.channels_last);
}

// The weight as (kernel_y, kernel_x, K, C / groups).
MapShape packed_shape(const Convolution& c) { return {c.kernel.y, c.kernel.x, c.channels, c.outputs, true, false}; }

Tensor packed_copy(const Tensor& weight, const Convolution& c) {
  Tensor packed = empty_map(packed_shape(c), weight.scalar_type(), weight);
  const std::array<int64_t, 4> sizes{c.channels, c.outputs, c.kernel.y, c.kernel.x};
  const int64_t tap = c.channels * c.outputs;
  const std::array<int64_t, 4> strides{c.outputs, 1, c.kernel.x * tap, tap};
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_as_strided(packed.get(), sizes.data(), strides.data(), &handle));
  Tensor unpacked(handle);
  torch::stable::copy_(unpacked, weight);
  return packed;
}

Tensor pack_weight(const Tensor& weight, const IntList& stride, const IntList& dilation, int64_t groups) {
  const Convolution convolution = check_pack_weight(weight, stride, dilation, groups);
  const torch::stable::accelerator::DeviceGuard guard(weight.get_device_index());
  return packed_copy(weight, convolution);
}

// One axis of the windows, as far as the arguments tell.
BackprojectAxis make_backproject_axis(int64_t pooled, int64_t switches, int64_t begin, int64_t size, int64_t base,
                                      int64_t map_size) {
  BackprojectAxis result{};
  result.pooled = pooled;
  result.switches = switches;
  result.begin = begin;
  result.size = size;
  result.base = base;
  result.map_size = map_size;
  return result;
}

Tensor backproject2d(const Tensor& input, const Tensor& weight, const Tensor& image, const Tensor& origin,
                     const std::optional<Tensor>& switches, const std::optional<Tensor>& packed,
                     const IntList& kernel_size, const IntList& pool_stride, const IntList& pool_dilation,
                     const std::string& overlap, bool relu, const IntList& stride, const IntList& dilation,
                     int64_t groups, const IntList& begin, const IntList& size, const IntList& base,
                     const IntList& map_size) {
  const Backproject2dCall call =
      check_backproject2d(input, weight, image, origin, switches, kernel_size, pool_stride, pool_dilation, overlap,
                          stride, dilation, groups, begin, size, base, map_size);
  const Convolution& c = call.convolution;
  const MapShape& windows = call.input;
  const MapShape& maps = call.maps;
  if (packed.has_value()) {
    check_packed(*packed, {c.kernel.y, c.kernel.x, c.channels, c.outputs}, input.scalar_type(), input);
  }
  const Pooling convolution{{c.kernel.y, c.stride.y, 0, c.dilation.y}, {c.kernel.x, c.stride.x, 0, c.dilation.x}};
  const Pooling pooling = call.pooling.value_or(Pooling{{1, 1, 0, 1}, {1, 1, 0, 1}});
  MapShape shape = windows.resized(call.size.y, call.size.x);
  shape.channels = c.outputs * c.groups;

  const torch::stable::accelerator::DeviceGuard guard(input.get_device_index());
  const Tensor values = dense(input, windows);
  const Tensor codes = switches.has_value() ? dense(*switches, maps) : Tensor();
  const Tensor weights = packed.has_value() ? *packed : packed_copy(weight, c);
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
    op.group_inputs = windows.channels / c.groups;
    op.group_outputs = c.outputs;
    op.groups = Divider(c.groups);
    op.y = make_backproject_axis(windows.height, maps.height, call.begin.y, call.size.y, call.base.y, call.map_size.y);
    op.x = make_backproject_axis(windows.width, maps.width, call.begin.x, call.size.x, call.base.x, call.map_size.x);
    op.last = call.last;
    op.relu = relu;
    op.bounded = call.map_size.y != -1 || call.map_size.x != -1;
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

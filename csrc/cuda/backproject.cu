#include "backproject.cuh"
#include "launch.h"
#include "pack_weight.h"

namespace deconv_kernels::cuda {
namespace {

Strides strides_of(const MapShape& shape) { return Strides(shape.channels, shape.size(), shape.channels_last); }

Tensor backproject(const BackprojectCall& call) {
  const Tensor& input = call.input;
  const Convolution& c = call.convolution;
  const MapShape& windows = call.windows;
  const MapShape& maps = call.maps;
  const Placement& place = call.placement;
  MapShape shape = windows.resized(place.size);
  shape.channels = c.outputs * c.groups;

  const torch::stable::accelerator::DeviceGuard guard(input.get_device_index());
  const Tensor values = dense(input, windows);
  const Tensor codes = call.switches.has_value() ? dense(*call.switches, maps) : Tensor();
  // Triton's kernel packs the same numbers in another order.
  const Tensor weights =
      call.packed.has_value() ? torch::stable::contiguous(*call.packed) : packed_copy(call.weight, c);
  check_packed(weights, packed_sizes(c, call.weight.dim()), input.scalar_type(), input);
  const Tensor images = torch::stable::contiguous(call.image);
  const Tensor origins = torch::stable::contiguous(call.origin);
  Tensor output = empty_map(shape, input.scalar_type(), input);
  const Launcher launcher(input.get_device_index());
  with_type(input.scalar_type(), [&]<typename T>() {
    Backproject<T> op{};
    op.input = data_of<T>(values);
    op.switches = call.switches.has_value() ? codes.const_data_ptr() : nullptr;
    op.two_byte_switches = switch_dtype(call.pooling) == ScalarType::Short;
    op.image = data_of<int64_t>(images);
    op.origin = data_of<int64_t>(origins);
    op.packed = data_of<T>(weights);
    op.output = mutable_data_of<T>(output);
    op.rank = windows.rank;
    op.input_strides = strides_of(windows);
    op.switch_strides = strides_of(maps);
    op.output_strides = strides_of(shape);
    op.units = windows.images;
    op.images = maps.images;
    op.inputs = windows.channels;
    op.group_inputs = windows.channels / c.groups;
    op.group_outputs = c.outputs;
    op.groups = Divider(c.groups);
    place_axes(op, windows.size(), maps.size(), place);
    op.last = call.last;
    op.relu = call.relu;
    launch_backproject(op, call.pooling, c.taps, Path::kAutomatic, launcher);
  });
  return output;
}

STABLE_TORCH_LIBRARY_IMPL(deconv_kernels, CUDA, m) {
  m.impl("backproject2d", TORCH_BOX((&Checked<check_backproject<2>, backproject>::kernel)));
  m.impl("backproject3d", TORCH_BOX((&Checked<check_backproject<3>, backproject>::kernel)));
}

}  // namespace
}  // namespace deconv_kernels::cuda

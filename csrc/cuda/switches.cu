#include "launch.h"
#include "switches.cuh"

namespace deconv_kernels::cuda {
namespace {

template <typename Switch>
void launch_to_indices(const Tensor& switches, Tensor& indices, const SwitchesCall& call, const Launcher& launcher) {
  const Switches<Switch> parameters = switch_parameters<Switch>(
      data_of<Switch>(switches), nullptr, nullptr, mutable_data_of<int64_t>(indices), layout_of(call.pooled),
      call.pooled.height, call.pooled.width, call.map.height, call.map.width, call.pooling);
  launcher(cuda::switches_to_indices<Switch>, parameters, switch_groups(parameters.count));
}

template <typename Switch>
void launch_to_switches(const Tensor& indices, Tensor& switches, const SwitchesCall& call, const Launcher& launcher) {
  const Switches<Switch> parameters = switch_parameters<Switch>(
      nullptr, data_of<int64_t>(indices), mutable_data_of<Switch>(switches), nullptr, layout_of(call.pooled),
      call.pooled.height, call.pooled.width, call.map.height, call.map.width, call.pooling);
  launcher(cuda::indices_to_switches<Switch>, parameters, switch_groups(parameters.count));
}

Tensor to_indices(const Tensor& switches, const IntList& input_size, const IntList& kernel_size, const IntList& stride,
                  const IntList& padding, const IntList& dilation) {
  const SwitchesCall call = check_switches_to_indices(switches, input_size, kernel_size, stride, padding, dilation);
  const MapShape& pooled = call.pooled;

  const torch::stable::accelerator::DeviceGuard guard(switches.get_device_index());
  const Tensor codes = dense(switches, pooled);
  Tensor indices = empty_map(pooled, ScalarType::Long, switches);
  const Launcher launcher(switches.get_device_index());
  if (switches.scalar_type() == ScalarType::Byte) {
    launch_to_indices<uint8_t>(codes, indices, call, launcher);
  } else {
    launch_to_indices<int16_t>(codes, indices, call, launcher);
  }
  return indices;
}

Tensor to_switches(const Tensor& indices, const IntList& input_size, const IntList& kernel_size, const IntList& stride,
                   const IntList& padding, const IntList& dilation) {
  const SwitchesCall call = check_indices_to_switches(indices, input_size, kernel_size, stride, padding, dilation);
  const MapShape& pooled = call.pooled;

  const torch::stable::accelerator::DeviceGuard guard(indices.get_device_index());
  const Tensor positions = dense(indices, pooled);
  Tensor switches = empty_map(pooled, switch_dtype(call.pooling), indices);
  const Launcher launcher(indices.get_device_index());
  if (switches.scalar_type() == ScalarType::Byte) {
    launch_to_switches<uint8_t>(positions, switches, call, launcher);
  } else {
    launch_to_switches<int16_t>(positions, switches, call, launcher);
  }
  return switches;
}

}  // namespace
}  // namespace deconv_kernels::cuda

STABLE_TORCH_LIBRARY_IMPL(deconv_kernels, CUDA, m) {
  m.impl("switches_to_indices", TORCH_BOX(&deconv_kernels::cuda::to_indices));
  m.impl("indices_to_switches", TORCH_BOX(&deconv_kernels::cuda::to_switches));
}

#include "launch.h"
#include "switches.cuh"

namespace deconv_kernels::cuda {
namespace {

// Calls launch.template operator()<Switch>(dense input, result, launcher) for a result of `dtype`.
template <typename Launch>
Tensor convert(const SwitchesCall& call, ScalarType dtype, const Launch& launch) {
  const torch::stable::accelerator::DeviceGuard guard(call.from.get_device_index());
  const Tensor from = dense(call.from, call.pooled);
  Tensor to = empty_map(call.pooled, dtype, call.from);
  const Launcher launcher(call.from.get_device_index());
  if (switch_dtype(call.pooling) == ScalarType::Byte) {
    launch.template operator()<uint8_t>(from, to, launcher);
  } else {
    launch.template operator()<int16_t>(from, to, launcher);
  }
  return to;
}

Tensor to_indices(const SwitchesCall& call) {
  const auto launch = [&]<typename Switch>(const Tensor& switches, Tensor& indices, const Launcher& launcher) {
    const Switches<Switch> parameters = switch_parameters<Switch>(
        data_of<Switch>(switches), nullptr, nullptr, mutable_data_of<int64_t>(indices), layout_of(call.pooled),
        call.pooled.height, call.pooled.width, call.map.height, call.map.width, call.pooling);
    launcher(cuda::switches_to_indices<Switch>, parameters, switch_groups(parameters.count));
  };
  return convert(call, ScalarType::Long, launch);
}

Tensor to_switches(const SwitchesCall& call) {
  const auto launch = [&]<typename Switch>(const Tensor& indices, Tensor& switches, const Launcher& launcher) {
    const Switches<Switch> parameters = switch_parameters<Switch>(
        nullptr, data_of<int64_t>(indices), mutable_data_of<Switch>(switches), nullptr, layout_of(call.pooled),
        call.pooled.height, call.pooled.width, call.map.height, call.map.width, call.pooling);
    launcher(cuda::indices_to_switches<Switch>, parameters, switch_groups(parameters.count));
  };
  return convert(call, switch_dtype(call.pooling), launch);
}

STABLE_TORCH_LIBRARY_IMPL(deconv_kernels, CUDA, m) {
  m.impl("switches_to_indices", TORCH_BOX((&Checked<check_switches_to_indices, to_indices>::kernel)));
  m.impl("indices_to_switches", TORCH_BOX((&Checked<check_indices_to_switches, to_switches>::kernel)));
}

}  // namespace
}  // namespace deconv_kernels::cuda

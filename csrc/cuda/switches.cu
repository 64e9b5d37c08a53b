#include "launch.h"
#include "switches.cuh"

namespace deconv_kernels::cuda {
namespace {

Tensor converted(const SwitchesCall& call, ScalarType dtype) {
  const torch::stable::accelerator::DeviceGuard guard(call.from.get_device_index());
  const Tensor from = dense(call.from, call.pooled);
  Tensor to = empty_map(call.pooled, dtype, call.from);
  const Launcher launcher(call.from.get_device_index());
  const auto launch = [&]<typename Switch>() {
    Switches<Switch> parameters{};
    if (dtype == ScalarType::Long) {
      parameters.switches_in = data_of<Switch>(from);
      parameters.indices_out = mutable_data_of<int64_t>(to);
    } else {
      parameters.indices_in = data_of<int64_t>(from);
      parameters.switches_out = mutable_data_of<Switch>(to);
    }
    launch_switches(parameters, layout_of(call.pooled), call.pooled.size(), call.map.size(), call.pooling, launcher);
  };
  if (switch_dtype(call.pooling) == ScalarType::Byte) {
    launch.template operator()<uint8_t>();
  } else {
    launch.template operator()<int16_t>();
  }
  return to;
}

Tensor to_indices(const SwitchesCall& call) { return converted(call, ScalarType::Long); }

Tensor to_switches(const SwitchesCall& call) { return converted(call, switch_dtype(call.pooling)); }

STABLE_TORCH_LIBRARY_IMPL(deconv_kernels, CUDA, m) {
  m.impl("switches_to_indices", TORCH_BOX((&Checked<check_switches_to_indices, to_indices>::kernel)));
  m.impl("indices_to_switches", TORCH_BOX((&Checked<check_indices_to_switches, to_switches>::kernel)));
}

}  // namespace
}  // namespace deconv_kernels::cuda

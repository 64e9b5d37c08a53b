#include "pack_weight.h"

namespace deconv_kernels::cuda {
namespace {

Tensor pack_weight(const PackWeightCall& call) {
  const torch::stable::accelerator::DeviceGuard guard(call.weight.get_device_index());
  return packed_copy(call.weight, call.convolution);
}

STABLE_TORCH_LIBRARY_IMPL(deconv_kernels, CUDA, m) {
  m.impl("pack_weight", TORCH_BOX((&Checked<check_pack_weight, pack_weight>::kernel)));
}

}  // namespace
}  // namespace deconv_kernels::cuda

#include "max_unpool2d.cuh"
#include "max_unpool2d.h"

namespace deconv_kernels::cuda {
namespace {

Tensor max_unpool2d(const MaxUnpool2dCall& call) {
  return with_unpool<MaxUnpool2d>(call, [&](const auto& unpool, const Launcher& launcher) {
    launch_max_unpool2d(unpool, call.pooling, Path::kAutomatic, launcher);
  });
}

STABLE_TORCH_LIBRARY_IMPL(deconv_kernels, CUDA, m) {
  m.impl("max_unpool2d", TORCH_BOX((&Checked<check_max_unpool2d, max_unpool2d>::kernel)));
}

}  // namespace
}  // namespace deconv_kernels::cuda

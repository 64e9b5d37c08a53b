#include "max_unpool.cuh"
#include "max_unpool.h"

namespace deconv_kernels::cuda {
namespace {

Tensor max_unpool(const MaxUnpoolCall& call) {
  return with_unpool<MaxUnpool>(call, [&](const auto& unpool, const Launcher& launcher) {
    launch_max_unpool(unpool, call.pooling, Path::kAutomatic, launcher);
  });
}

STABLE_TORCH_LIBRARY_IMPL(deconv_kernels, CUDA, m) {
  m.impl("max_unpool2d", TORCH_BOX((&Checked<check_max_unpool<2>, max_unpool>::kernel)));
  m.impl("max_unpool3d", TORCH_BOX((&Checked<check_max_unpool<3>, max_unpool>::kernel)));
}

}  // namespace
}  // namespace deconv_kernels::cuda

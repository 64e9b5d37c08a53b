#include "max_unpool.h"

namespace deconv_kernels {

namespace {

Tensor max_unpool(const MaxUnpoolCall& call) { return launch_max_unpool(call, nullptr, nullptr); }

STABLE_TORCH_LIBRARY_IMPL(deconv_kernels, CPU, m) {
  m.impl("max_unpool2d", TORCH_BOX((&Checked<check_max_unpool<2>, max_unpool>::kernel)));
  m.impl("max_unpool3d", TORCH_BOX((&Checked<check_max_unpool<3>, max_unpool>::kernel)));
}

}  // namespace

}  // namespace deconv_kernels

#include "max_unpool2d.h"

namespace deconv_kernels {

namespace {

Tensor max_unpool2d(const MaxUnpool2dCall& call) { return launch_max_unpool2d(call, nullptr, nullptr); }

STABLE_TORCH_LIBRARY_IMPL(deconv_kernels, CPU, m) {
  m.impl("max_unpool2d", TORCH_BOX((&Checked<check_max_unpool2d, max_unpool2d>::kernel)));
}

}  // namespace

}  // namespace deconv_kernels

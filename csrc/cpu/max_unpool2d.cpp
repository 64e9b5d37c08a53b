#include "max_unpool2d.h"

namespace deconv_kernels {

namespace {

Tensor max_unpool2d(const Tensor& input, const Tensor& switches, const IntList& kernel_size, const IntList& stride,
                    const IntList& padding, const IntList& dilation, const IntList& output_size,
                    const std::string& overlap, bool relu) {
  const auto [pooling, shape, unpooled, last] =
      check_max_unpool2d(input, switches, kernel_size, stride, padding, dilation, output_size, overlap);
  return launch_max_unpool2d(input, shape, switches, shape, nullptr, nullptr, unpooled, pooling, last, relu);
}

}  // namespace

}  // namespace deconv_kernels

STABLE_TORCH_LIBRARY_IMPL(deconv_kernels, CPU, m) { m.impl("max_unpool2d", TORCH_BOX(&deconv_kernels::max_unpool2d)); }

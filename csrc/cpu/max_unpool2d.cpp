#include "max_unpool2d.h"

namespace deconv_kernels {

namespace {

Tensor max_unpool2d(const Tensor& input, const Tensor& switches, const IntList& kernel_size, const IntList& stride,
                    const IntList& padding, const IntList& dilation, const IntList& output_size,
                    const std::string& overlap, bool relu) {
  const Pooling pooling = make_pooling(kernel_size, stride, padding, dilation);
  check_floating("input", input);
  const MapShape shape = map_shape("input", input);
  check_same_map("switches", map_shape("switches", switches), "input", shape);
  check_dtype("switches", switches, switch_dtype(pooling));
  check_same_device("switches", switches, "input", input);
  const MapShape unpooled = checked_unpooled("output_size", output_size, shape, pooling);
  return launch_max_unpool2d(input, shape, switches, shape, nullptr, nullptr, unpooled, pooling,
                             overlap_is_last(overlap), relu);
}

}  // namespace

}  // namespace deconv_kernels

STABLE_TORCH_LIBRARY_IMPL(deconv_kernels, CPU, m) { m.impl("max_unpool2d", TORCH_BOX(&deconv_kernels::max_unpool2d)); }

#include "max_unpool2d.h"

namespace deconv_kernels {

namespace {

Tensor max_unpool2d_window(const Tensor& input, const Tensor& switches, const Tensor& image, const Tensor& origin,
                           const IntList& kernel_size, const IntList& stride, const IntList& dilation,
                           const std::string& overlap, bool relu) {
  const auto [pooling, shape, maps, unpooled, last] =
      check_max_unpool2d_window(input, switches, image, origin, kernel_size, stride, dilation, overlap);
  const Tensor images = torch::stable::contiguous(image);
  const Tensor origins = torch::stable::contiguous(origin);
  const int64_t* image_of = images.const_data_ptr<int64_t>();
  check_images(image_of, shape.images, maps.images);
  return launch_max_unpool2d(input, shape, switches, maps, image_of, origins.const_data_ptr<int64_t>(), unpooled,
                             pooling, last, relu);
}

}  // namespace

}  // namespace deconv_kernels

STABLE_TORCH_LIBRARY_IMPL(deconv_kernels, CPU, m) {
  m.impl("max_unpool2d_window", TORCH_BOX(&deconv_kernels::max_unpool2d_window));
}

#include "max_unpool.h"

namespace deconv_kernels {

namespace {

Tensor max_unpool_window(const MaxUnpoolWindowCall& call) {
  const Tensor images = torch::stable::contiguous(call.image);
  const Tensor origins = torch::stable::contiguous(call.origin);
  const int64_t* image_of = images.const_data_ptr<int64_t>();
  check_images(image_of, call.pooled.images, call.maps.images);
  return launch_max_unpool(call, image_of, origins.const_data_ptr<int64_t>());
}

STABLE_TORCH_LIBRARY_IMPL(deconv_kernels, CPU, m) {
  m.impl("max_unpool2d_window", TORCH_BOX((&Checked<check_max_unpool_window<2>, max_unpool_window>::kernel)));
  m.impl("max_unpool3d_window", TORCH_BOX((&Checked<check_max_unpool_window<3>, max_unpool_window>::kernel)));
}

}  // namespace

}  // namespace deconv_kernels

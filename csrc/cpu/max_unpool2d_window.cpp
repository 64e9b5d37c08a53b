#include "max_unpool2d.h"

namespace deconv_kernels {

namespace {

Tensor max_unpool2d_window(const Tensor& input, const Tensor& switches, const Tensor& image, const Tensor& origin,
                           const IntList& kernel_size, const IntList& stride, const IntList& dilation,
                           const std::string& overlap, bool relu) {
  const Pooling pooling = make_pooling(kernel_size, stride, {0, 0}, dilation);
  check_floating("input", input);
  const MapShape shape = map_shape("input", input);
  MapShape maps = map_shape("switches", switches);
  DK_CHECK(shape.batched && maps.batched && maps.channels == shape.channels,
           "input must have shape (U, C, h, w) and switches (N, C, PH, PW)");
  check_dtype("switches", switches, switch_dtype(pooling));
  check_same_device("switches", switches, "input", input);
  DK_CHECK(image.dim() == 1 && image.size(0) == shape.images, "image must have shape (", shape.images, ",)");
  DK_CHECK(origin.dim() == 2 && origin.size(0) == shape.images && origin.size(1) == 2, "origin must have shape (",
           shape.images, ", 2)");
  check_dtype("image", image, ScalarType::Long);
  check_dtype("origin", origin, ScalarType::Long);
  check_same_device("image", image, "input", input);
  check_same_device("origin", origin, "input", input);
  check_memory("image", image);
  check_memory("origin", origin);
  maps.channels_last = shape.channels_last;
  const MapShape unpooled = shape.resized((shape.height - 1) * pooling.y.stride + extent(pooling.y),
                                          (shape.width - 1) * pooling.x.stride + extent(pooling.x));

  const Tensor images = torch::stable::contiguous(image);
  const Tensor origins = torch::stable::contiguous(origin);
  const int64_t* image_of = images.const_data_ptr<int64_t>();
  for (int64_t unit = 0; unit < shape.images; ++unit) {
    DK_CHECK(image_of[unit] >= 0 && image_of[unit] < maps.images, "image must be between 0 and ", maps.images - 1,
             ", got ", image_of[unit]);
  }
  return launch_max_unpool2d(input, shape, switches, maps, image_of, origins.const_data_ptr<int64_t>(), unpooled,
                             pooling, overlap_is_last(overlap), relu);
}

}  // namespace

}  // namespace deconv_kernels

STABLE_TORCH_LIBRARY_IMPL(deconv_kernels, CPU, m) {
  m.impl("max_unpool2d_window", TORCH_BOX(&deconv_kernels::max_unpool2d_window));
}

#include "launch.h"
#include "max_unpool2d_window.cuh"

namespace deconv_kernels::cuda {
namespace {

Tensor max_unpool2d_window(const Tensor& input, const Tensor& switches, const Tensor& image, const Tensor& origin,
                           const IntList& kernel_size, const IntList& stride, const IntList& dilation,
                           const std::string& overlap, bool relu) {
  const Pooling pooling = make_pooling(kernel_size, stride, {0, 0}, dilation);
  const MapShape windows = map_shape("input", input);
  const MapShape maps = map_shape("switches", switches);
  DK_CHECK(windows.batched, "input must have shape (U, C, h, w)");
  DK_CHECK(maps.batched && maps.channels == windows.channels,
           "switches must have shape (N, C, PH, PW) with C = ", windows.channels);
  check_floating("input", input);
  check_dtype("switches", switches, switch_dtype(pooling));
  check_dtype("image", image, ScalarType::Long);
  check_dtype("origin", origin, ScalarType::Long);
  check_same_device("switches", switches, "input", input);
  check_same_device("image", image, "input", input);
  check_same_device("origin", origin, "input", input);
  DK_CHECK(image.dim() == 1 && image.size(0) == windows.images, "image must have shape (U,) with U = ", windows.images);
  DK_CHECK(origin.dim() == 2 && origin.size(0) == windows.images && origin.size(1) == 2,
           "origin must have shape (U, 2) with U = ", windows.images);
  const bool last = overlap_is_last(overlap);
  const MapShape shape = windows.resized((windows.height - 1) * pooling.y.stride + extent(pooling.y),
                                         (windows.width - 1) * pooling.x.stride + extent(pooling.x));

  const torch::stable::accelerator::DeviceGuard guard(input.get_device_index());
  MapShape switch_layout = maps;
  switch_layout.channels_last = windows.channels_last;
  const Tensor values = dense(input, windows);
  const Tensor codes = dense(switches, switch_layout);
  const Tensor images = torch::stable::contiguous(image);
  const Tensor origins = torch::stable::contiguous(origin);
  Tensor output = empty_map(shape, input.scalar_type(), input);
  const Launcher launcher(input.get_device_index());
  with_types(input.scalar_type(), switches.scalar_type(), [&]<typename T, typename Switch>() {
    MaxUnpool2dWindow<T, Switch> unpool{};
    unpool.input = data_of<T>(values);
    unpool.switches = data_of<Switch>(codes);
    unpool.output = mutable_data_of<T>(output);
    unpool.layout = layout_of(windows);
    unpool.pooled_height = windows.height;
    unpool.pooled_width = windows.width;
    unpool.height = shape.height;
    unpool.width = shape.width;
    unpool.last = last;
    unpool.relu = relu;
    unpool.image = data_of<int64_t>(images);
    unpool.origin = data_of<int64_t>(origins);
    unpool.switch_batch = maps.images;
    unpool.switch_height = maps.height;
    unpool.switch_width = maps.width;
    launch_max_unpool2d_window(unpool, pooling, Path::kAutomatic, launcher);
  });
  return output;
}

}  // namespace
}  // namespace deconv_kernels::cuda

STABLE_TORCH_LIBRARY_IMPL(deconv_kernels, CUDA, m) {
  m.impl("max_unpool2d_window", TORCH_BOX(&deconv_kernels::cuda::max_unpool2d_window));
}

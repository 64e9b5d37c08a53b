#include "launch.h"
#include "max_unpool2d_window.cuh"

namespace deconv_kernels::cuda {
namespace {

Tensor max_unpool2d_window(const Tensor& input, const Tensor& switches, const Tensor& image, const Tensor& origin,
                           const IntList& kernel_size, const IntList& stride, const IntList& dilation,
                           const std::string& overlap, bool relu) {
  const MaxUnpool2dWindowCall call =
      check_max_unpool2d_window(input, switches, image, origin, kernel_size, stride, dilation, overlap);
  const MapShape& windows = call.input;
  const MapShape& maps = call.maps;
  const MapShape& shape = call.unpooled;
  const torch::stable::accelerator::DeviceGuard guard(input.get_device_index());
  const Tensor values = dense(input, windows);
  const Tensor codes = dense(switches, maps);
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
    unpool.last = call.last;
    unpool.relu = relu;
    unpool.image = data_of<int64_t>(images);
    unpool.origin = data_of<int64_t>(origins);
    unpool.switch_batch = maps.images;
    unpool.switch_height = maps.height;
    unpool.switch_width = maps.width;
    launch_max_unpool2d_window(unpool, call.pooling, Path::kAutomatic, launcher);
  });
  return output;
}

}  // namespace
}  // namespace deconv_kernels::cuda

STABLE_TORCH_LIBRARY_IMPL(deconv_kernels, CUDA, m) {
  m.impl("max_unpool2d_window", TORCH_BOX(&deconv_kernels::cuda::max_unpool2d_window));
}

#include "launch.h"
#include "max_unpool2d.cuh"

namespace deconv_kernels::cuda {
namespace {

Tensor max_unpool2d(const Tensor& input, const Tensor& switches, const IntList& kernel_size, const IntList& stride,
                    const IntList& padding, const IntList& dilation, const IntList& output_size,
                    const std::string& overlap, bool relu) {
  const MaxUnpool2dCall call =
      check_max_unpool2d(input, switches, kernel_size, stride, padding, dilation, output_size, overlap);
  const MapShape& pooled = call.input;
  const MapShape& shape = call.unpooled;
  const torch::stable::accelerator::DeviceGuard guard(input.get_device_index());
  const Tensor values = dense(input, pooled);
  const Tensor codes = dense(switches, pooled);
  Tensor output = empty_map(shape, input.scalar_type(), input);
  const Launcher launcher(input.get_device_index());
  with_types(input.scalar_type(), switches.scalar_type(), [&]<typename T, typename Switch>() {
    MaxUnpool2d<T, Switch> unpool{};
    unpool.input = data_of<T>(values);
    unpool.switches = data_of<Switch>(codes);
    unpool.output = mutable_data_of<T>(output);
    unpool.layout = layout_of(pooled);
    unpool.pooled_height = pooled.height;
    unpool.pooled_width = pooled.width;
    unpool.height = shape.height;
    unpool.width = shape.width;
    unpool.last = call.last;
    unpool.relu = relu;
    launch_max_unpool2d(unpool, call.pooling, Path::kAutomatic, launcher);
  });
  return output;
}

}  // namespace
}  // namespace deconv_kernels::cuda

STABLE_TORCH_LIBRARY_IMPL(deconv_kernels, CUDA, m) {
  m.impl("max_unpool2d", TORCH_BOX(&deconv_kernels::cuda::max_unpool2d));
}

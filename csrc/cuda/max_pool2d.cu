#include <optional>
#include <tuple>

#include "launch.h"
#include "max_pool2d.cuh"

namespace deconv_kernels::cuda {
namespace {

std::tuple<Tensor, Tensor> max_pool2d(const Tensor& input, const std::optional<Tensor>& bias,
                                      const IntList& kernel_size, const IntList& stride, const IntList& padding,
                                      const IntList& dilation, bool ceil_mode, bool relu) {
  const MaxPool2dCall call = check_max_pool2d(input, bias, kernel_size, stride, padding, dilation, ceil_mode);
  const Pooling& pooling = call.pooling;
  const MapShape& shape = call.input;
  const MapShape& pooled = call.pooled;
  const torch::stable::accelerator::DeviceGuard guard(input.get_device_index());
  const Tensor maps = dense(input, shape);
  const Tensor addend = bias.has_value() ? torch::stable::contiguous(*bias) : Tensor();
  Tensor output = empty_map(pooled, input.scalar_type(), input);
  Tensor switches = empty_map(pooled, switch_dtype(pooling), input);
  const Launcher launcher(input.get_device_index());
  with_types(input.scalar_type(), switches.scalar_type(), [&]<typename T, typename Switch>() {
    MaxPool2d<T, Switch> pool{};
    pool.input = data_of<T>(maps);
    pool.bias = bias.has_value() ? data_of<T>(addend) : nullptr;
    pool.output = mutable_data_of<T>(output);
    pool.switches = mutable_data_of<Switch>(switches);
    pool.layout = layout_of(shape);
    pool.height = shape.height;
    pool.width = shape.width;
    pool.pooled_height = pooled.height;
    pool.pooled_width = pooled.width;
    pool.relu = relu;
    launch_max_pool2d(pool, pooling, Path::kAutomatic, launcher);
  });
  return {output, switches};
}

}  // namespace
}  // namespace deconv_kernels::cuda

STABLE_TORCH_LIBRARY_IMPL(deconv_kernels, CUDA, m) {
  m.impl("max_pool2d", TORCH_BOX(&deconv_kernels::cuda::max_pool2d));
}

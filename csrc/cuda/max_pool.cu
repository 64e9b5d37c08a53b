#include <optional>
#include <tuple>

#include "launch.h"
#include "max_pool.cuh"

namespace deconv_kernels::cuda {
namespace {

std::tuple<Tensor, Tensor> max_pool(const MaxPoolCall& call) {
  const Tensor& input = call.input;
  const torch::stable::accelerator::DeviceGuard guard(input.get_device_index());
  const Tensor maps = dense(input, call.map);
  const Tensor addend = call.bias.has_value() ? torch::stable::contiguous(*call.bias) : Tensor();
  Tensor output = empty_map(call.pooled, input.scalar_type(), input);
  Tensor switches = empty_map(call.pooled, switch_dtype(call.pooling), input);
  const Launcher launcher(input.get_device_index());
  with_types(input.scalar_type(), switches.scalar_type(), [&]<typename T, typename Switch>() {
    MaxPool<T, Switch> pool{};
    pool.input = data_of<T>(maps);
    pool.bias = call.bias.has_value() ? data_of<T>(addend) : nullptr;
    pool.output = mutable_data_of<T>(output);
    pool.switches = mutable_data_of<Switch>(switches);
    pool.layout = layout_of(call.map);
    pool.depth = call.map.depth;
    pool.height = call.map.height;
    pool.width = call.map.width;
    pool.pooled_depth = call.pooled.depth;
    pool.pooled_height = call.pooled.height;
    pool.pooled_width = call.pooled.width;
    pool.relu = call.relu;
    launch_max_pool(pool, call.pooling, Path::kAutomatic, launcher);
  });
  return {output, switches};
}

STABLE_TORCH_LIBRARY_IMPL(deconv_kernels, CUDA, m) {
  m.impl("max_pool2d", TORCH_BOX((&Checked<check_max_pool<2>, max_pool>::kernel)));
  m.impl("max_pool3d", TORCH_BOX((&Checked<check_max_pool<3>, max_pool>::kernel)));
}

}  // namespace
}  // namespace deconv_kernels::cuda

#include "launch.h"
#include "max_unpool2d.cuh"

namespace deconv_kernels::cuda {
namespace {

Tensor max_unpool2d(const Tensor& input, const Tensor& switches, const IntList& kernel_size, const IntList& stride,
                    const IntList& padding, const IntList& dilation, const IntList& output_size,
                    const std::string& overlap, bool relu) {
  const Pooling pooling = make_pooling(kernel_size, stride, padding, dilation);
  const MapShape pooled = map_shape("input", input);
  check_floating("input", input);
  check_dtype("switches", switches, switch_dtype(pooling));
  check_same_map("switches", map_shape("switches", switches), "input", pooled);
  check_same_device("switches", switches, "input", input);
  const MapShape shape = checked_unpooled("output_size", output_size, pooled, pooling);
  const bool last = overlap_is_last(overlap);

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
    unpool.last = last;
    unpool.relu = relu;
    launch_max_unpool2d(unpool, pooling, Path::kAutomatic, launcher);
  });
  return output;
}

}  // namespace
}  // namespace deconv_kernels::cuda

STABLE_TORCH_LIBRARY_IMPL(deconv_kernels, CUDA, m) {
  m.impl("max_unpool2d", TORCH_BOX(&deconv_kernels::cuda::max_unpool2d));
}

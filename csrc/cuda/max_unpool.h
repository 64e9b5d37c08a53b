// The launch that unpooling whole maps and unpooling windows of them share.
#pragma once

#include "launch.h"

namespace deconv_kernels::cuda {

// Calls launch(parameters, launcher) for an Unpool<T, Switch> of what `call` says.
template <template <typename, typename> typename Unpool, typename Launch>
Tensor with_unpool(const MaxUnpoolCall& call, const Launch& launch) {
  const Tensor& input = call.input;
  const torch::stable::accelerator::DeviceGuard guard(input.get_device_index());
  const Tensor values = dense(input, call.pooled);
  const Tensor codes = dense(call.switches, call.maps);
  Tensor output = empty_map(call.unpooled, input.scalar_type(), input);
  const Launcher launcher(input.get_device_index());
  with_types(input.scalar_type(), call.switches.scalar_type(), [&]<typename T, typename Switch>() {
    Unpool<T, Switch> unpool{};
    unpool.input = data_of<T>(values);
    unpool.switches = data_of<Switch>(codes);
    unpool.output = mutable_data_of<T>(output);
    unpool.layout = layout_of(call.pooled);
    unpool.pooled_depth = call.pooled.depth;
    unpool.pooled_height = call.pooled.height;
    unpool.pooled_width = call.pooled.width;
    unpool.depth = call.unpooled.depth;
    unpool.height = call.unpooled.height;
    unpool.width = call.unpooled.width;
    unpool.last = call.last;
    unpool.relu = call.relu;
    launch(unpool, launcher);
  });
  return output;
}

}  // namespace deconv_kernels::cuda

#include "max_unpool2d.h"
#include "max_unpool2d_window.cuh"

namespace deconv_kernels::cuda {
namespace {

Tensor max_unpool2d_window(const MaxUnpool2dWindowCall& call) {
  const torch::stable::accelerator::DeviceGuard guard(call.input.get_device_index());
  const Tensor images = torch::stable::contiguous(call.image);
  const Tensor origins = torch::stable::contiguous(call.origin);
  return with_unpool<MaxUnpool2dWindow>(call, [&](auto unpool, const Launcher& launcher) {
    unpool.image = data_of<int64_t>(images);
    unpool.origin = data_of<int64_t>(origins);
    unpool.switch_batch = call.maps.images;
    unpool.switch_height = call.maps.height;
    unpool.switch_width = call.maps.width;
    launch_gather(unpool, call.pooling, Path::kAutomatic, launcher);
  });
}

STABLE_TORCH_LIBRARY_IMPL(deconv_kernels, CUDA, m) {
  m.impl("max_unpool2d_window", TORCH_BOX((&Checked<check_max_unpool2d_window, max_unpool2d_window>::kernel)));
}

}  // namespace
}  // namespace deconv_kernels::cuda

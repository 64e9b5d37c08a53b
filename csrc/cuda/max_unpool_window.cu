#include "max_unpool.h"
#include "max_unpool_window.cuh"

namespace deconv_kernels::cuda {
namespace {

Tensor max_unpool_window(const MaxUnpoolWindowCall& call) {
  const torch::stable::accelerator::DeviceGuard guard(call.input.get_device_index());
  const Tensor images = torch::stable::contiguous(call.image);
  const Tensor origins = torch::stable::contiguous(call.origin);
  return with_unpool<MaxUnpoolWindow>(call, [&](auto unpool, const Launcher& launcher) {
    unpool.image = data_of<int64_t>(images);
    unpool.origin = data_of<int64_t>(origins);
    unpool.switch_batch = call.maps.images;
    unpool.rank = call.maps.rank;
    unpool.switch_depth = call.maps.depth;
    unpool.switch_height = call.maps.height;
    unpool.switch_width = call.maps.width;
    launch_gather(unpool, call.pooling, Path::kAutomatic, launcher);
  });
}

STABLE_TORCH_LIBRARY_IMPL(deconv_kernels, CUDA, m) {
  m.impl("max_unpool2d_window", TORCH_BOX((&Checked<check_max_unpool_window<2>, max_unpool_window>::kernel)));
  m.impl("max_unpool3d_window", TORCH_BOX((&Checked<check_max_unpool_window<3>, max_unpool_window>::kernel)));
}

}  // namespace
}  // namespace deconv_kernels::cuda

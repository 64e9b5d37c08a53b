// How a weight is packed for CUDA: (kernel_y, kernel_x, K, C / groups), dense.
#pragma once

#include "launch.h"

namespace deconv_kernels::cuda {

inline IntList packed_sizes(const Convolution& c) { return {c.taps.y.kernel, c.taps.x.kernel, c.channels, c.outputs}; }

inline Tensor packed_copy(const Tensor& weight, const Convolution& c) {
  const MapShape shape{c.taps.y.kernel, c.taps.x.kernel, c.channels, c.outputs, true, false};
  Tensor packed = empty_map(shape, weight.scalar_type(), weight);
  const std::array<int64_t, 4> sizes{c.channels, c.outputs, c.taps.y.kernel, c.taps.x.kernel};
  const int64_t tap = c.channels * c.outputs;
  const std::array<int64_t, 4> strides{c.outputs, 1, c.taps.x.kernel * tap, tap};
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_as_strided(packed.get(), sizes.data(), strides.data(), &handle));
  Tensor unpacked(handle);
  torch::stable::copy_(unpacked, weight);
  return packed;
}

}  // namespace deconv_kernels::cuda

// How a weight is packed for CUDA: ([kernel_z, ]kernel_y, kernel_x, K, C / groups), dense.
#pragma once

#include "launch.h"

namespace deconv_kernels::cuda {

// Of a weight of `dimensions`, four or five.
inline IntList packed_sizes(const Convolution& c, int64_t dimensions) {
  IntList sizes{c.taps.y.kernel, c.taps.x.kernel, c.channels, c.outputs};
  if (dimensions == 5) sizes.insert(sizes.begin(), c.taps.z.kernel);
  return sizes;
}

inline Tensor packed_copy(const Tensor& weight, const Convolution& c) {
  const bool deep = weight.dim() == 5;
  const MapShape shape =
      deep ? MapShape{c.taps.z.kernel, c.taps.y.kernel, c.taps.x.kernel, c.channels, c.outputs, 3, true, false}
           : MapShape{c.taps.y.kernel, c.taps.x.kernel, 1, c.channels, c.outputs, 2, true, false};
  Tensor packed = empty_map(shape, weight.scalar_type(), weight);
  const int64_t tap = c.channels * c.outputs, row = c.taps.x.kernel * tap;
  IntList sizes{c.channels, c.outputs, c.taps.y.kernel, c.taps.x.kernel}, strides{c.outputs, 1, row, tap};
  if (deep) {
    sizes.insert(sizes.begin() + 2, c.taps.z.kernel);
    strides.insert(strides.begin() + 2, c.taps.y.kernel * row);
  }
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_as_strided(packed.get(), sizes.data(), strides.data(), &handle));
  Tensor unpacked(handle);
  torch::stable::copy_(unpacked, weight);
  return packed;
}

}  // namespace deconv_kernels::cuda

// How a weight is packed for the CPU; nothing else decides it.
#pragma once

#include "backproject/tasks.h"
#include "launch.h"

namespace deconv_kernels {

// The type in which elements of `dtype` are summed, and weights packed.
inline ScalarType sum_dtype(ScalarType dtype) {
  return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}
inline int64_t sum_bytes(ScalarType dtype) { return dtype == ScalarType::Double ? 8 : 4; }

// The layout that suits a convolution, without data.
PackedWeight packing(const Convolution& convolution, ScalarType dtype);

int64_t packed_elements(const Convolution& convolution, const PackedWeight& packed, ScalarType dtype);

Tensor packed_tensor(const Tensor& weight, const Convolution& convolution, const PackedWeight& packed);

}  // namespace deconv_kernels

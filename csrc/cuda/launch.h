// From checked tensors to kernels: the launch itself, and the choice of a kernel's types.
#pragma once

#include "checks.h"
#include "device.cuh"
#include "stream.h"

namespace deconv_kernels::cuda {

// Launches a kernel over `items` on the current stream of `device`, which the caller has made current.
class Launcher {
 public:
  // The CUDA runtime in this library is not torch's, so it has to be told of the device as well.
  explicit Launcher(int32_t device) : stream_(current_stream(device)) { DK_CUDA_CHECK(cudaSetDevice(device)); }

  template <typename Parameters>
  void operator()(void (*kernel)(Parameters), const Parameters& parameters, int64_t items) const {
    if (items == 0) return;
    kernel<<<blocks_for(items), kThreadsPerBlock, 0, stream_>>>(parameters);
    DK_CUDA_CHECK(cudaGetLastError());
  }

 private:
  cudaStream_t stream_;
};

template <typename T>
const T* data_of(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <typename T>
T* mutable_data_of(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// Calls run.template operator()<T>() for a floating dtype.
template <typename Run>
void with_type(ScalarType dtype, const Run& run) {
  switch (dtype) {
    case ScalarType::Float:
      return run.template operator()<float>();
    case ScalarType::Double:
      return run.template operator()<double>();
    case ScalarType::Half:
      return run.template operator()<__half>();
    default:
      return run.template operator()<__nv_bfloat16>();
  }
}

// Calls run.template operator()<T, Switch>() for a floating dtype and a dtype of switches.
template <typename Run>
void with_types(ScalarType dtype, ScalarType switch_dtype, const Run& run) {
  with_type(dtype, [&]<typename T>() {
    if (switch_dtype == ScalarType::Byte) {
      run.template operator()<T, uint8_t>();
    } else {
      run.template operator()<T, int16_t>();
    }
  });
}

inline Layout layout_of(const MapShape& shape) { return Layout(shape.images, shape.channels, shape.channels_last); }

}  // namespace deconv_kernels::cuda

// The current CUDA stream, without linking libtorch_cuda: the compiled library also loads where torch has no CUDA.
#pragma once

#include <cuda_runtime_api.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/macros.h>
#include <torch/headeronly/util/Exception.h>

#if !defined(_WIN32)
#include <dlfcn.h>
#endif

#define DK_CUDA_CHECK(expression)                                                                             \
  do {                                                                                                        \
    const cudaError_t dk_error = (expression);                                                                \
    STD_TORCH_CHECK(dk_error == cudaSuccess, "CUDA error in ", __func__, ": ", cudaGetErrorString(dk_error)); \
  } while (0)

namespace deconv_kernels::cuda {

inline cudaStream_t current_stream(int32_t device) {
  // libtorch_cuda is loaded whenever a CUDA tensor exists.
  using GetStream = AOTITorchError (*)(int32_t, void**);
  static const GetStream get_stream = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_NOLOAD | RTLD_LAZY);
    return library == nullptr ? nullptr
                              : reinterpret_cast<GetStream>(dlsym(library, "aoti_torch_get_current_cuda_stream"));
  }();
  STD_TORCH_CHECK(get_stream != nullptr,
                  "torch's CUDA library is not loaded or has no aoti_torch_get_current_cuda_stream; a CUDA build of "
                  "torch >= 2.10 is needed");
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(get_stream(device, &stream));
  return static_cast<cudaStream_t>(stream);
}

}  // namespace deconv_kernels::cuda

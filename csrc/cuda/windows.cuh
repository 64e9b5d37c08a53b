// Window arithmetic of one spatial axis (geometry/pooling.h) with divisions prepared at launch.
#pragma once

#include "device.cuh"
#include "geometry/pooling.h"

namespace deconv_kernels::cuda {

struct WindowAxis {
  WindowAxis() = default;
  explicit WindowAxis(const Axis& axis)
      : kernel(axis.kernel),
        stride(axis.stride),
        padding(axis.padding),
        dilation(axis.dilation),
        extent(deconv_kernels::extent(axis)),
        by_stride(axis.stride),
        by_dilation(axis.dilation) {}

  __device__ __forceinline__ int64_t start(int64_t pooled) const { return pooled * stride - padding; }

  // Taps inside an input of `size` for a window that starts at `start`: first_tap <= tap < end_tap.
  __device__ __forceinline__ int64_t first_tap(int64_t start) const {
    return start >= 0 ? 0 : by_dilation.ceil(-start);
  }
  __device__ __forceinline__ int64_t end_tap(int64_t start, int64_t size) const {
    const int64_t fitting = size > start ? by_dilation.ceil(size - start) : 0;
    return fitting < kernel ? fitting : kernel;
  }

  // Windows that may look at input position `position`: first_window <= pooled < end_window.
  __device__ __forceinline__ int64_t first_window(int64_t position) const {
    const int64_t behind = position + padding - extent + 1;
    return behind > 0 ? by_stride.ceil(behind) : 0;
  }
  __device__ __forceinline__ int64_t end_window(int64_t position, int64_t pooled_size) const {
    const int64_t end = by_stride.floor(position + padding) + 1;
    return end < pooled_size ? end : pooled_size;
  }

  // The tap with which window `pooled` sees `position`, or -1 where it does not.
  __device__ __forceinline__ int64_t tap_at(int64_t position, int64_t pooled) const {
    const int64_t offset = position - start(pooled);
    if (offset < 0) return -1;
    int64_t rest;
    const int64_t tap = by_dilation.divide(offset, &rest);
    return rest == 0 && tap < kernel ? tap : -1;
  }

  int64_t kernel = 1;
  int64_t stride = 1;
  int64_t padding = 0;
  int64_t dilation = 1;
  int64_t extent = 1;
  Divider by_stride;
  Divider by_dilation;
};

// Whether windows have kernel x kernel positions in a plane, each the next of the other, and lie `stride` apart there.
inline bool is_square_in_planes(const Pooling& pooling, int64_t kernel, int64_t stride) {
  return pooling.y.kernel == kernel && pooling.x.kernel == kernel && pooling.y.stride == stride &&
         pooling.x.stride == stride && pooling.y.dilation == 1 && pooling.x.dilation == 1;
}

// The same, of maps that have one plane.
inline bool is_square_window(const Pooling& pooling, int64_t depth, int64_t kernel, int64_t stride) {
  return depth == 1 && pooling.z.kernel == 1 && is_square_in_planes(pooling, kernel, stride);
}

}  // namespace deconv_kernels::cuda

// Window arithmetic of a pooling, shared by every C++ and CUDA kernel. A map of two dimensions is one of three with a
// single plane.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define DK_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define DK_HOST_DEVICE inline
#endif

namespace deconv_kernels {

// One spatial axis. Pooled position `o` looks at the input positions
// `o * stride - padding + tap * dilation`, tap = 0 .. kernel - 1, that lie inside the input.
struct Axis {
  int64_t kernel;
  int64_t stride;
  int64_t padding;
  int64_t dilation;
};

// An axis along which nothing is pooled.
constexpr Axis kOnePosition{1, 1, 0, 1};

struct Pooling {
  Axis z;
  Axis y;
  Axis x;

  DK_HOST_DEVICE int64_t taps() const { return z.kernel * y.kernel * x.kernel; }
};

struct PerAxis {
  int64_t z;
  int64_t y;
  int64_t x;
};

// A switch counts positions inside its window in row-major order: `(tap_z * kernel_y + tap_y) * kernel_x + tap_x`.
// One byte holds it up to 256 positions, two bytes up to 32,768.
constexpr int64_t kLargestByteWindow = 256;
constexpr int64_t kLargestWindow = 32768;

DK_HOST_DEVICE int64_t floor_divide(int64_t a, int64_t b) {
  const int64_t quotient = a / b;
  return quotient - ((a % b != 0 && (a < 0) != (b < 0)) ? 1 : 0);
}

DK_HOST_DEVICE int64_t ceil_divide(int64_t a, int64_t b) { return -floor_divide(-a, b); }

DK_HOST_DEVICE int64_t extent(const Axis& axis) { return axis.dilation * (axis.kernel - 1) + 1; }

// Pooled size of an input of `size`; ceil_mode keeps a partial last window only if it starts inside
// the input or its leading padding.
DK_HOST_DEVICE int64_t pooled_size(int64_t size, const Axis& axis, bool ceil_mode) {
  const int64_t room = size + 2 * axis.padding - extent(axis) + (ceil_mode ? axis.stride - 1 : 0);
  int64_t pooled = floor_divide(room, axis.stride) + 1;
  if (ceil_mode && (pooled - 1) * axis.stride >= size + axis.padding) --pooled;
  return pooled;
}

// What `pooled` windows cover, padding included.
DK_HOST_DEVICE int64_t unpooled_size(int64_t pooled, const Axis& axis) {
  return (pooled - 1) * axis.stride + extent(axis);
}

// Input position of tap 0; it is negative inside the leading padding.
DK_HOST_DEVICE int64_t window_start(int64_t pooled, const Axis& axis) { return pooled * axis.stride - axis.padding; }

// Taps of one window that lie inside an input of `size`: first_tap <= tap < end_tap.
DK_HOST_DEVICE int64_t first_tap(int64_t start, const Axis& axis) {
  return start >= 0 ? 0 : ceil_divide(-start, axis.dilation);
}
DK_HOST_DEVICE int64_t end_tap(int64_t start, int64_t size, const Axis& axis) {
  if (start + extent(axis) <= size) return axis.kernel;
  const int64_t fitting = ceil_divide(size - start, axis.dilation);
  return fitting < axis.kernel ? fitting : axis.kernel;
}

// Windows that may look at input position `position`: first_window <= pooled < end_window. With
// dilation above 1 some of them skip over it; `tap_at` tells.
DK_HOST_DEVICE int64_t first_window(int64_t position, const Axis& axis) {
  const int64_t first = ceil_divide(position + axis.padding - extent(axis) + 1, axis.stride);
  return first > 0 ? first : 0;
}
DK_HOST_DEVICE int64_t end_window(int64_t position, int64_t pooled, const Axis& axis) {
  const int64_t end = floor_divide(position + axis.padding, axis.stride) + 1;
  return end < pooled ? end : pooled;
}

// The tap with which window `pooled` sees input position `position`, or -1 where it does not.
DK_HOST_DEVICE int64_t tap_at(int64_t position, int64_t pooled, const Axis& axis) {
  const int64_t offset = position - window_start(pooled, axis);
  const bool seen = offset >= 0 && (axis.dilation == 1 || offset % axis.dilation == 0);
  if (!seen) return -1;
  const int64_t tap = axis.dilation == 1 ? offset : offset / axis.dilation;
  return tap < axis.kernel ? tap : -1;
}

}  // namespace deconv_kernels

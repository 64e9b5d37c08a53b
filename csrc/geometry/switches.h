// The arithmetic between switches and flat positions of the map.
#pragma once

#include "pooling.h"

namespace deconv_kernels {

// Flat position in a map of `size` that switch `code` of the window at `pooled` names; -1 where it names no tap of the
// window or one outside the map.
DK_HOST_DEVICE int64_t index_of_switch(int64_t code, const PerAxis& pooled, const PerAxis& size,
                                       const Pooling& pooling) {
  if (code < 0 || code >= pooling.taps()) return -1;
  const int64_t row = code / pooling.x.kernel;
  const int64_t z = window_start(pooled.z, pooling.z) + row / pooling.y.kernel * pooling.z.dilation;
  const int64_t y = window_start(pooled.y, pooling.y) + row % pooling.y.kernel * pooling.y.dilation;
  const int64_t x = window_start(pooled.x, pooling.x) + code % pooling.x.kernel * pooling.x.dilation;
  const bool inside = z >= 0 && z < size.z && y >= 0 && y < size.y && x >= 0 && x < size.x;
  return inside ? (z * size.y + y) * size.x + x : -1;
}

// The switch with which the window at `pooled` names flat position `index`; -1 where it does not see it.
DK_HOST_DEVICE int64_t switch_of_index(int64_t index, const PerAxis& pooled, const PerAxis& size,
                                       const Pooling& pooling) {
  if (index < 0 || index >= size.z * size.y * size.x) return -1;
  const int64_t row = index / size.x;
  const int64_t tap_z = tap_at(row / size.y, pooled.z, pooling.z);
  const int64_t tap_y = tap_at(row % size.y, pooled.y, pooling.y);
  const int64_t tap_x = tap_at(index % size.x, pooled.x, pooling.x);
  return tap_z < 0 || tap_y < 0 || tap_x < 0 ? -1 : (tap_z * pooling.y.kernel + tap_y) * pooling.x.kernel + tap_x;
}

}  // namespace deconv_kernels

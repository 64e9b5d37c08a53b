// The arithmetic between switches and flat positions of the map.
#pragma once

#include "pooling.h"

namespace deconv_kernels {

// Flat position in a (height, width) map that switch `code` of window (pooled_y, pooled_x) names; -1 where it names no
// tap of the window or one outside the map.
DK_HOST_DEVICE int64_t index_of_switch(int64_t code, int64_t pooled_y, int64_t pooled_x, int64_t height, int64_t width,
                                       const Pooling& pooling) {
  if (code < 0 || code >= pooling.y.kernel * pooling.x.kernel) return -1;
  const int64_t y = window_start(pooled_y, pooling.y) + code / pooling.x.kernel * pooling.y.dilation;
  const int64_t x = window_start(pooled_x, pooling.x) + code % pooling.x.kernel * pooling.x.dilation;
  return y >= 0 && y < height && x >= 0 && x < width ? y * width + x : -1;
}

// The switch with which window (pooled_y, pooled_x) names flat position `index`; -1 where it does not see it.
DK_HOST_DEVICE int64_t switch_of_index(int64_t index, int64_t pooled_y, int64_t pooled_x, int64_t height, int64_t width,
                                       const Pooling& pooling) {
  if (index < 0 || index >= height * width) return -1;
  const int64_t tap_y = tap_at(index / width, pooled_y, pooling.y);
  const int64_t tap_x = tap_at(index % width, pooled_x, pooling.x);
  return tap_y < 0 || tap_x < 0 ? -1 : tap_y * pooling.x.kernel + tap_x;
}

}  // namespace deconv_kernels

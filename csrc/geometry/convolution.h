// The geometry of a convolution, and of the part that is wanted of its transpose.
#pragma once

#include "pooling.h"

namespace deconv_kernels {

// A forward convolution, from `outputs` channels a group to all the `channels` of the signal.
struct Convolution {
  int64_t channels;
  int64_t outputs;
  int64_t groups;
  Pooling taps;  // as those of a pooling's window, without padding
};

struct Placement {
  PerAxis begin;     // of the part, in the whole transposed convolution
  PerAxis size;      // of the part; beyond the whole it goes on with zeros
  PerAxis base;      // the part that belongs to a window lies at origin * step + base of the map
  PerAxis map_size;  // -1 where the map has no end
};

}  // namespace deconv_kernels

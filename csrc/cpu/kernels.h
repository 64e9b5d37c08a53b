// The vectorised loops behind the CPU launchers. They are compiled once for each instruction set; `kernels()` is the
// best that this processor runs.
#pragma once

#include <cstdint>

#include "../kernels/pooling.h"

namespace deconv_kernels {

enum class Element { kFloat, kDouble, kHalf, kBFloat16 };

// Pools rows of (planes, height, width), or with channels_last of (images, height, width, channels).
struct MaxPool2dParams {
  const void* input;
  const void* bias;  // (channels), or null
  void* values;
  void* switches;  // uint8, or int16 where wide_switches
  int64_t channels;
  int64_t height;
  int64_t width;
  int64_t pooled_height;
  int64_t pooled_width;
  Pooling pooling;
  bool relu;
  bool wide_switches;
};

// A window that sees a position of phase r = (position + padding) % stride: it is `back` windows before window
// (position + padding) / stride and sees the position with `tap`.
struct PhaseTap {
  int64_t back;
  int64_t tap;
};

// The taps of every phase in the order of their windows; phase r owns taps[begin[r]] .. taps[begin[r + 1] - 1], phases
// from `count` on own none.
struct Phases {
  const int64_t* begin;
  const PhaseTap* taps;
  int64_t count;
  int64_t most;  // the most taps that one phase owns
};

// Unpools windows of pooled maps; a whole map is one window at the origin of its own image.
struct MaxUnpool2dParams {
  const void* input;      // (units, channels, height, width), or channels innermost
  const void* switches;   // (images, channels, map_height, map_width), laid out alike
  void* output;           // (units, channels, output_height, output_width), laid out alike
  const int64_t* image;   // (units), or null: unit u belongs to image u
  const int64_t* origin;  // (units, 2), or null: all at (0, 0)
  int64_t units;
  int64_t channels;
  int64_t height;
  int64_t width;
  int64_t map_height;
  int64_t map_width;
  int64_t output_height;
  int64_t output_width;
  Pooling pooling;
  Phases phases_y;
  Phases phases_x;
  bool last;
  bool relu;
  bool wide_switches;
};

// Each function works on the rows [begin, end) of its result: rows of (plane, y), or with channels_last of (image, y).
struct Kernels {
  const char* name;
  void (*max_pool2d)(Element, bool channels_last, const MaxPool2dParams&, int64_t begin, int64_t end);
  void (*max_unpool2d)(Element, bool channels_last, const MaxUnpool2dParams&, int64_t begin, int64_t end);
};

namespace baseline {
extern const Kernels kKernels;
}
namespace avx2 {
extern const Kernels kKernels;
}
namespace avx512 {
extern const Kernels kKernels;
}

// The widest instruction set this processor and build have, or the one named by the environment variable
// DECONV_CPU_CAPABILITY (baseline, avx2 or avx512); chosen once.
const Kernels& kernels();

}  // namespace deconv_kernels

// The vectorised loops behind the CPU launchers. They are compiled once for each instruction set; `kernels()` is the
// best that this processor runs.
#pragma once

#include <cstdint>

#include "../geometry/pooling.h"

namespace deconv_kernels {

enum class Element { kFloat, kDouble, kHalf, kBFloat16 };

// Pools rows of (planes of images and channels, z, y, x), or with channels_last of (images, z, y, x, channels).
struct MaxPoolParams {
  const void* input;
  const void* bias;  // (channels), or null
  void* values;
  void* switches;  // uint8, or int16 where wide_switches
  int64_t channels;
  PerAxis size;
  PerAxis pooled;
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
struct MaxUnpoolParams {
  const void* input;      // (units, channels, size), or channels innermost
  const void* switches;   // (images, channels, map), laid out alike
  void* output;           // (units, channels, unpooled), laid out alike
  const int64_t* image;   // (units), or null: unit u belongs to image u
  const int64_t* origin;  // (units, rank), or null: all at zero
  int rank;               // of the origins
  int64_t units;
  int64_t channels;
  PerAxis size;
  PerAxis map;
  PerAxis unpooled;
  Pooling pooling;
  Phases phases_z;
  Phases phases_y;
  Phases phases_x;
  bool last;
  bool relu;
  bool wide_switches;
  bool streamed;  // the output is too large to stay in the caches
};

// A signal by what of it is not zero. The positions of each of its planes lie in cells of one or of 2 x 2 positions.
// For every block of kListedChannels channels, and every position of every cell in row-major order, the values that are
// not zero follow each other, and a bit for each channel of the block tells whose they are.
constexpr int64_t kListedChannels = 64;
struct SignalLists {
  void* values;      // of the type in which elements are summed
  uint64_t* masks;   // (units, blocks, planes, rows, columns, positions of a cell)
  int64_t* entries;  // (units, blocks, planes, rows): of each row of cells
  int64_t planes;
  int64_t rows;
  int64_t columns;
  int64_t side;      // a cell holds side x side positions
  int64_t blocks;    // of all groups together
  int64_t capacity;  // entries that a row has room for
};

// A weight in the order in which it is read: (groups, blocks of output channels, planes of taps, slices, channels,
// lines of a slice), lines of kLineBytes. `tiled`, for planes of 3x3 taps with stride 1: a block is one line of output
// channels, in a single slice of nine lines, one for each tap. Otherwise the taps of a plane and the output channels of
// a block follow each other, channels innermost, in slices of kSliceLines lines. `gathered`, for taps three wide with
// stride 1 and few output channels: rows of taps, lines of channels, taps of the row, output channels.
constexpr int64_t kLineBytes = 64;
constexpr int64_t kSliceLines = 8;
constexpr int64_t kGatheredOutputs = 4;  // at most
struct PackedWeight {
  const void* data;
  bool tiled;
  bool gathered;
  int64_t channels;  // of a group
  int64_t wide;      // output channels of a block
  int64_t blocks;    // of a group
  int64_t planes;    // of taps
  int64_t lines;     // of a block, plane of taps and channel
  bool plain;        // not packed at all: one tap, (channels, outputs) in a group, outputs a multiple of `wide`
};

// Transposed convolution of windows; the signal is what unpooling and rectification leave of `input`. The result is the
// full transposed convolution from `begin` on, continued with zeros.
struct BackprojectParams {
  const void* input;      // (units, depth, height, width, channels)
  const void* switches;   // (images, map.z, map.y, map.x, channels), or null
  const int64_t* image;   // (units)
  const int64_t* origin;  // (units, rank)
  void* output;           // (units, output_channels, size.z, size.y, size.x), or channels innermost
  int rank;
  int64_t units;
  int64_t channels;
  int64_t output_channels;
  int64_t groups;
  int64_t depth;
  int64_t height;
  int64_t width;
  PerAxis map;
  int64_t pool_planes;  // the switches are of windows of pool_planes x 2 x 2 positions, side by side
  PerAxis kernel;
  PerAxis stride;
  PerAxis dilation;
  PerAxis full;  // size of the full transposed convolution
  PerAxis begin;
  PerAxis size;
  PerAxis step;  // the result of a unit begins at origin * step + base
  PerAxis base;
  PerAxis end;  // of the map that the result lies on, -1 where it has no end
  bool relu;
  bool channels_last;  // of the output
  bool streamed;       // the output is too large to stay in the caches
  PackedWeight weight;
  SignalLists lists;
};

// A sending task is one block of output channels, for `units` units or some planes and rows of the result of one.
struct SendPlan {
  int64_t units;
  int64_t planes;
  int64_t rows;
};

// The pooling functions work on the rows [begin, end) of their result: rows of (image, channel, z, y), or with
// channels_last of (image, z, y).
struct Kernels {
  const char* name;
  void (*max_pool)(Element, bool channels_last, const MaxPoolParams&, int64_t begin, int64_t end);
  void (*max_unpool)(Element, bool channels_last, const MaxUnpoolParams&, int64_t begin, int64_t end);
  // Lists the rows [begin, end) of a signal's cells, counted over all blocks of all units.
  void (*list_signal)(Element, const BackprojectParams&, int64_t begin, int64_t end);
  // Runs the tasks [begin, end) of a plan; `memory` holds the sums of one task.
  void (*send_signal)(Element, const BackprojectParams&, const SendPlan&, void* memory, int64_t begin, int64_t end);
  // Computes the rows [begin, end) of all units' results where the weight is `gathered`.
  void (*gather_signal)(Element, const BackprojectParams&, int64_t begin, int64_t end);
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
// DECONV_CPU_CAPABILITY (baseline, avx2 or avx512; empty counts as unset); chosen once.
const Kernels& kernels();

}  // namespace deconv_kernels

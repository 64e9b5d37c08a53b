// Transposed convolution of windows whose signal is unpooled and rectified on the fly: two kernels.
//
// `patches` knows planes of 3x3 taps after pools whose windows are 2x2 in a plane, where three of four signal values,
// or more, are zero, and multiplies only the others. A warp holds a patch of outputs in registers, neighbouring threads
// neighbouring channels. For one plane of taps after the other, pooled values go to shared memory; all threads of the
// warp read the same one, and its switch says which branch, written out for that switch, adds it times its nine weights
// to the outputs that it reaches.
//
// `tiles` takes everything. A block computes one tile: some output positions, of one window or of several small ones,
// times some channels of one group. With a stride, output positions fall into phases, stride_y * stride_x of them, that
// are reached by different taps; all positions of a tile are of one phase, and each tap of that phase sends the signal,
// shifted, to all of them. A tile lies in one plane of the outputs, and the planes of taps are sent one after the
// other.
//
// For some taps of a plane at a time, the block finds where every signal value under the tile comes from, and then
// takes kChannels input channels at a time: their signal goes to shared memory, and every thread adds it, times the
// weights, to kPositions x kLanes sums. Each output is a sum in an order that only the geometry decides: taps by chunk,
// channels by kChannels, taps, channels.
#pragma once

#include <algorithm>
#include <numeric>

#include "device.cuh"
#include "geometry/convolution.h"
#include "windows.cuh"

namespace deconv_kernels::cuda {

constexpr int kMostChannelThreads = 16;  // threads side by side along the output channels
constexpr int kRegion = 256;             // signal positions in shared memory
constexpr int kHalo = 8;                 // rows or columns by which taps of one chunk may reach over a tile

// Output positions of a thread that takes kLanes channels of each.
template <int kLanes>
constexpr int kPositions = kLanes > 4 ? 4 : 8;

// Channels of one 16-byte access to shared memory, and channels there.
template <typename T>
constexpr int kQuad = kBytesPerAccess / static_cast<int>(sizeof(Arithmetic<T>));
constexpr int kQuads = 4;
template <typename T>
constexpr int kChannels = kQuads * kQuad<T>;

template <typename T>
using Quad = Vector<Arithmetic<T>, kQuad<T>>;

// Quads from one signal position to the next. One more than is used puts neighbours into different banks.
constexpr int kPitch = kQuads + 1;

__device__ __forceinline__ int64_t at_most(int64_t value, int64_t limit) { return value < limit ? value : limit; }

// Elements between neighbours of a (N, C, D, H, W) tensor.
struct Strides {
  Strides() = default;
  Strides(int64_t channels, const PerAxis& size, bool channels_last)
      : sample(channels * size.z * size.y * size.x),
        channel(channels_last ? 1 : size.z * size.y * size.x),
        plane(size.y * size.x * (channels_last ? channels : 1)),
        row(size.x * (channels_last ? channels : 1)),
        column(channels_last ? channels : 1) {}

  int64_t sample = 0;
  int64_t channel = 0;
  int64_t plane = 0;
  int64_t row = 0;
  int64_t column = 0;
};

// The output positions phase, phase + stride, .. of one axis, and their taps first_tap, first_tap + tap_step, .. The
// first tap sends signal position `signal` to the first of them.
struct Phase {
  int64_t first_tap;
  int64_t taps;
  int64_t signal;
};

// Pooling windows that look at one signal position: `count` of them from `first` on, which sees it with `tap`.
struct Looking {
  int64_t first;
  int count;
  int tap;
};

// One axis of a tile: the outputs phase + stride * (first + i), i = 0 .. tile - 1.
struct TileAxis {
  int64_t first;
  int64_t phase;
  Phase taps;
};

// The signal under one axis of a tile for a chunk of its taps: `length` positions from `start` on. Tap n of the chunk
// shifts them by (taps - 1 - n) * shift.
struct Reach {
  int64_t start;
  int length;
  int taps;
  int64_t first_tap;
};

struct BackprojectAxis {
  // Unpooling. The windows that look at one position are window_step apart, and their taps window_tap_step.
  int64_t pooled;    // length of the input
  int64_t switches;  // length of the map of switches
  int64_t signal;    // length of the unpooled signal
  WindowAxis window;
  int window_step;
  int window_tap_step;
  // Convolution. Taps of one phase are tap_step apart, and what they send is shifted by `shift`.
  int64_t kernel;
  int64_t stride;
  int64_t dilation;
  int64_t tap_step;
  int64_t shift;
  // Output `i` is element begin + i of the whole result and lies at origin * step + base + i of the map.
  int64_t begin;
  int64_t size;
  int64_t step;
  int64_t base;
  int64_t map_size;
  // Tiles.
  int tile;   // outputs along this axis
  int chunk;  // taps at a time
  Divider phases;
  Divider tiles;

  __device__ __forceinline__ Phase phase_at(int64_t phase) const {
    const int64_t position = begin + phase;
    int64_t tap = 0;
    while (tap < kernel && tap < tap_step && (position - tap * dilation) % stride != 0) ++tap;
    if (tap == kernel || tap == tap_step) return {0, 0, 0};
    return {tap, (kernel - 1 - tap) / tap_step + 1, (position - tap * dilation) / stride};
  }

  __device__ __forceinline__ Reach reach(const TileAxis& at, int64_t first) const {
    const int taps = static_cast<int>(at_most(at.taps.taps - first, chunk));
    return {at.first + at.taps.signal - (first + taps - 1) * shift, tile + (taps - 1) * static_cast<int>(shift), taps,
            at.taps.first_tap + first * tap_step};
  }

  // Windows outside the map of switches have none and do not count.
  __device__ __forceinline__ Looking looking_at(int64_t position, int64_t origin) const {
    if (origin >= switches || origin <= -pooled) return {0, 0, 0};
    int64_t begin = window.first_window(position);
    int64_t end = window.end_window(position, pooled);
    begin = begin < -origin ? -origin : begin;
    end = end < switches - origin ? end : switches - origin;
    for (; begin < end; ++begin) {
      const int64_t tap = window.tap_at(position, begin);
      if (tap >= 0) return {begin, static_cast<int>((end - begin - 1) / window_step) + 1, static_cast<int>(tap)};
    }
    return {0, 0, 0};
  }

  // Wraps like torch's int64 does.
  __device__ __forceinline__ bool in_map(int64_t origin, int64_t output) const {
    const uint64_t position = static_cast<uint64_t>(origin) * static_cast<uint64_t>(step) +
                              static_cast<uint64_t>(base) + static_cast<uint64_t>(output);
    return position < static_cast<uint64_t>(map_size);
  }
};

// Where the value at one signal position comes from, in its first channel: from planes x rows x columns pooling
// windows.
struct Source {
  int64_t input;
  int64_t switches;
  int planes;
  int rows;
  int columns;
  int tap_z;
  int tap_y;
  int tap_x;
};

struct Tile {
  int64_t unit;
  int64_t group;
  int64_t channel;  // of the group, in vectors of lanes
  TileAxis z;       // a single output
  TileAxis y;
  TileAxis x;
};

template <typename T>
struct Backproject {
  const T* input;         // [units][inputs][pooled_z][pooled_y][pooled_x] in either layout
  const void* switches;   // [images][inputs][switches_z][switches_y][switches_x], or null: the input is the signal
  const int64_t* image;   // [units]: the image whose switches a window uses
  const int64_t* origin;  // [units][rank]: where its first element lies in that image's map
  const T* packed;        // [kernel_z][kernel_y][kernel_x][inputs][outputs of a group]
  T* output;              // [units][groups * outputs of a group][size_z][size_y][size_x] in either layout
  int rank;
  Strides input_strides;
  Strides switch_strides;
  Strides output_strides;
  int64_t units;
  int64_t images;
  int64_t inputs;         // input channels
  int64_t group_inputs;   // of one group
  int64_t group_outputs;  // output channels of one group
  BackprojectAxis z;
  BackprojectAxis y;
  BackprojectAxis x;
  bool last;
  bool relu;
  bool bounded;            // outputs outside the map are zero
  bool two_byte_switches;  // int16 instead of uint8
  bool wide_input;         // kQuad channels of input and switches can be read at once
  bool wide_output;        // kLanes channels of the output can be written at once
  int channel_threads;     // threads along the channels of a tile; a power of two
  int tile_units;
  Divider channel_tiles;
  Divider groups;
  Divider patch_tiles;
  int64_t tiles;  // one block each

  __device__ __forceinline__ Tile tile_at(int64_t index) const {
    Tile tile;
    index = channel_tiles.divide(index, &tile.channel);
    index = groups.divide(index, &tile.group);
    index = x.phases.divide(index, &tile.x.phase);
    index = y.phases.divide(index, &tile.y.phase);
    index = z.phases.divide(index, &tile.z.phase);
    index = x.tiles.divide(index, &tile.x.first);
    index = y.tiles.divide(index, &tile.y.first);
    tile.unit = z.tiles.divide(index, &tile.z.first) * tile_units;
    tile.channel *= channel_threads;
    tile.y.first *= y.tile;
    tile.x.first *= x.tile;
    tile.z.taps = z.phase_at(tile.z.phase);
    tile.y.taps = y.phase_at(tile.y.phase);
    tile.x.taps = x.phase_at(tile.x.phase);
    return tile;
  }

  // The first channel of this thread.
  __device__ __forceinline__ int64_t channel_of(const Tile& tile, int lanes) const {
    return (tile.channel + threadIdx.x % static_cast<unsigned int>(channel_threads)) * lanes;
  }

  // The n-th position of this thread in a tile; false where the tile has no more.
  __device__ __forceinline__ bool position(int n, int* unit, int* row, int* column) const {
    const unsigned int threads = kThreadsPerBlock / channel_threads;
    const unsigned int slot = threadIdx.x / static_cast<unsigned int>(channel_threads) + n * threads;
    const unsigned int line = slot / static_cast<unsigned int>(x.tile);
    *column = static_cast<int>(slot - line * x.tile);
    *unit = static_cast<int>(line / static_cast<unsigned int>(y.tile));
    *row = static_cast<int>(line) - *unit * y.tile;
    return *unit < tile_units;
  }

  __device__ __forceinline__ PerAxis origin_of(int64_t unit) const {
    const int64_t* end = origin + (unit + 1) * rank;
    return {rank == 3 ? end[-3] : 0, end[-2], end[-1]};
  }

  __device__ __forceinline__ Source source_of(int64_t unit, int64_t plane, int64_t row, int64_t column) const {
    if (unit >= units || plane < 0 || plane >= z.signal || row < 0 || row >= y.signal || column < 0 ||
        column >= x.signal) {
      return {};
    }
    const int64_t input_of_unit = unit * input_strides.sample;
    if (switches == nullptr) {
      return {input_of_unit + plane * input_strides.plane + row * input_strides.row + column * input_strides.column,
              0,
              1,
              1,
              1,
              0,
              0,
              0};
    }
    const int64_t sample = image[unit];
    if (sample < 0 || sample >= images) return {};
    const PerAxis at = origin_of(unit);
    const Looking planes = z.looking_at(plane, at.z);
    const Looking rows = y.looking_at(row, at.y);
    const Looking columns = x.looking_at(column, at.x);
    if (planes.count == 0 || rows.count == 0 || columns.count == 0) return {};
    return {input_of_unit + planes.first * input_strides.plane + rows.first * input_strides.row +
                columns.first * input_strides.column,
            sample * switch_strides.sample + (at.z + planes.first) * switch_strides.plane +
                (at.y + rows.first) * switch_strides.row + (at.x + columns.first) * switch_strides.column,
            planes.count,
            rows.count,
            columns.count,
            planes.tap,
            rows.tap,
            columns.tap};
  }

  // Whether output (k, i, j) of a unit lies on the map.
  __device__ __forceinline__ bool is_visible(int64_t unit, int64_t k, int64_t i, int64_t j) const {
    if (!bounded) return true;
    const PerAxis at = origin_of(unit);
    return (rank == 2 || z.in_map(at.z, k)) && y.in_map(at.y, i) && x.in_map(at.x, j);
  }

  // Writes kLanes channels of an output position.
  template <int kLanes>
  __device__ __forceinline__ void store_lanes(int64_t unit, int64_t channel, int64_t k, int64_t i, int64_t j,
                                              const Vector<T, kLanes>& lanes) const {
    const Strides& strides = output_strides;
    T* to = output + (unit * strides.sample + channel * strides.channel + k * strides.plane + i * strides.row +
                      j * strides.column);
    if (wide_output) {
      store(to, lanes);
    } else {
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) to[lane * strides.channel] = lanes.lane[lane];
    }
  }

  template <typename Switch, typename Load>
  __device__ __forceinline__ Vector<int, kQuad<T>> load_codes(int64_t at, const Load& load) const {
    const auto loaded = load(static_cast<const Switch*>(switches) + at, switch_strides.channel);
    Vector<int, kQuad<T>> codes;
#pragma unroll
    for (int lane = 0; lane < kQuad<T>; ++lane) codes.lane[lane] = loaded.lane[lane];
    return codes;
  }

  // Adds to `sums` what kQuad channels get from the windows of a source, in row-major order.
  template <typename Load>
  __device__ __forceinline__ void collect(const Source& source, int64_t channel, Arithmetic<T>* sums,
                                          const Load& load) const {
    for (int window = 0; window < source.planes * source.rows; ++window) {
      const int plane = window / source.rows;
      const int row = window - plane * source.rows;
      for (int column = 0; column < source.columns; ++column) {
        const int64_t window_z = static_cast<int64_t>(plane) * z.window_step;
        const int64_t window_y = static_cast<int64_t>(row) * y.window_step;
        const int64_t window_x = static_cast<int64_t>(column) * x.window_step;
        const auto values = load(input + (source.input + window_z * input_strides.plane + window_y * input_strides.row +
                                          window_x * input_strides.column + channel * input_strides.channel),
                                 input_strides.channel);
        if (switches == nullptr) {
#pragma unroll
          for (int lane = 0; lane < kQuad<T>; ++lane) sums[lane] = to_arithmetic(values.lane[lane]);
          return;
        }
        const int64_t at = source.switches + window_z * switch_strides.plane + window_y * switch_strides.row +
                           window_x * switch_strides.column + channel * switch_strides.channel;
        const Vector<int, kQuad<T>> codes =
            two_byte_switches ? load_codes<int16_t>(at, load) : load_codes<uint8_t>(at, load);
        const int tap_z = source.tap_z - plane * z.window_tap_step;
        const int tap_y = source.tap_y - row * y.window_tap_step;
        const int tap_x = source.tap_x - column * x.window_tap_step;
        const int tap = (tap_z * static_cast<int>(y.window.kernel) + tap_y) * static_cast<int>(x.window.kernel) + tap_x;
#pragma unroll
        for (int lane = 0; lane < kQuad<T>; ++lane) {
          const Arithmetic<T> value = to_arithmetic(values.lane[lane]);
          const Arithmetic<T> updated = last ? value : sums[lane] + value;
          sums[lane] = codes.lane[lane] == tap ? updated : sums[lane];
        }
      }
    }
  }

  // The signal of kQuad channels from `channel` of a group on; zero beyond the group.
  __device__ __forceinline__ Quad<T> signal_of(const Source& source, int64_t group, int64_t channel) const {
    Quad<T> sums{};
    const int64_t left = group_inputs - channel;
    if (left <= 0) return sums;
    channel += group * group_inputs;
    if (wide_input) {
      collect(source, channel, sums.lane, [](const auto* from, int64_t) { return load_shared_data<kQuad<T>>(from); });
    } else {
      collect(source, channel, sums.lane, [left](const auto* from, int64_t stride) {
        Vector<std::remove_cvref_t<decltype(*from)>, kQuad<T>> lanes{};
#pragma unroll
        for (int lane = 0; lane < kQuad<T>; ++lane) {
          if (lane < left) lanes.lane[lane] = from[lane * stride];
        }
        return lanes;
      });
    }
#pragma unroll
    for (int lane = 0; lane < kQuad<T>; ++lane) {
      sums.lane[lane] = to_arithmetic(round_to<T>(relu ? rectify(sums.lane[lane]) : sums.lane[lane]));
    }
    return sums;
  }
};

template <typename Op>
__device__ __forceinline__ void find_sources(const Op& op, const Tile& tile, const Reach& z, const Reach& y,
                                             const Reach& x, Source* sources) {
  const int count = op.tile_units * y.length * x.length;
  for (int place = static_cast<int>(threadIdx.x); place < count; place += kThreadsPerBlock) {
    const int line = place / x.length;
    const int unit = line / y.length;
    sources[place] =
        op.source_of(tile.unit + unit, z.start, y.start + (line - unit * y.length), x.start + place % x.length);
  }
}

// Neighbouring threads take neighbouring channels where these lie together, neighbouring positions elsewhere.
template <typename T>
__device__ __forceinline__ void stage_signal(const Backproject<T>& op, const Tile& tile, int places, int64_t channel,
                                             const Source* sources, Quad<T>* signal) {
  for (int item = static_cast<int>(threadIdx.x); item < places * kQuads; item += kThreadsPerBlock) {
    const int place = op.wide_input ? item / kQuads : item % places;
    const int quad = op.wide_input ? item % kQuads : item / places;
    signal[place * kPitch + quad] = op.signal_of(sources[place], tile.group, channel + quad * kQuad<T>);
  }
}

// Adds the staged channels, times the weights of a chunk of taps, to the sums of this thread.
template <int kLanes, typename T>
__device__ __forceinline__ void accumulate(const Backproject<T>& op, const Tile& tile, const Reach& z, const Reach& y,
                                           const Reach& x, const int (&places)[kPositions<kLanes>], int64_t channel,
                                           const Quad<T>* signal, Arithmetic<T> (&sums)[kPositions<kLanes>][kLanes]) {
  using A = Arithmetic<T>;
  const int64_t output = op.channel_of(tile, kLanes);
  const int channels = static_cast<int>(at_most(op.group_inputs - channel, kChannels<T>));
  const int weighted = output < op.group_outputs ? channels : 0;
  for (int n_y = 0; n_y < y.taps; ++n_y) {
    for (int n_x = 0; n_x < x.taps; ++n_x) {
      const int64_t row = z.first_tap * op.y.kernel + y.first_tap + n_y * op.y.tap_step;
      const int64_t tap = row * op.x.kernel + x.first_tap + n_x * op.x.tap_step;
      const T* weights =
          op.packed + (tap * op.inputs + tile.group * op.group_inputs + channel) * op.group_outputs + output;
      const int shift_y = (y.taps - 1 - n_y) * static_cast<int>(op.y.shift);
      const int shift_x = (x.taps - 1 - n_x) * static_cast<int>(op.x.shift);
      const Quad<T>* shifted = signal + (shift_y * x.length + shift_x) * kPitch;
#pragma unroll 2
      for (int first = 0; first < channels; first += kQuad<T>) {
        Vector<T, kLanes> weight[kQuad<T>];
#pragma unroll
        for (int i = 0; i < kQuad<T>; ++i) {
          weight[i] = load_shared_data_or<kLanes>(first + i < weighted, weights, 0, round_to<T>(A(0)));
          weights += op.group_outputs;
        }
#pragma unroll
        for (int n = 0; n < kPositions<kLanes>; ++n) {
          const Quad<T> values = shifted[places[n] + first / kQuad<T>];
#pragma unroll
          for (int i = 0; i < kQuad<T>; ++i) {
#pragma unroll
            for (int lane = 0; lane < kLanes; ++lane) {
              sums[n][lane] += values.lane[i] * to_arithmetic(weight[i].lane[lane]);
            }
          }
        }
      }
    }
  }
}

template <int kLanes, typename T>
__device__ __forceinline__ void store_sums(const Backproject<T>& op, const Tile& tile,
                                           const Arithmetic<T> (&sums)[kPositions<kLanes>][kLanes]) {
  const int64_t channel = op.channel_of(tile, kLanes);
  if (channel >= op.group_outputs) return;
#pragma unroll
  for (int n = 0; n < kPositions<kLanes>; ++n) {
    int place, row, column;
    const bool in_tile = op.position(n, &place, &row, &column);
    const int64_t unit = tile.unit + place;
    const int64_t k = tile.z.phase + tile.z.first * op.z.stride;
    const int64_t i = tile.y.phase + (tile.y.first + row) * op.y.stride;
    const int64_t j = tile.x.phase + (tile.x.first + column) * op.x.stride;
    if (!in_tile || unit >= op.units || k >= op.z.size || i >= op.y.size || j >= op.x.size) continue;
    const bool visible = op.is_visible(unit, k, i, j);
    Vector<T, kLanes> rounded;
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) rounded.lane[lane] = round_to<T>(visible ? sums[n][lane] : 0);
    op.store_lanes(unit, tile.group * op.group_outputs + channel, k, i, j, rounded);
  }
}

template <typename T, int kLanes>
__global__ void __launch_bounds__(kThreadsPerBlock, 3) backproject_tiles(const Backproject<T> op) {
  __shared__ Tile tile;
  __shared__ Source sources[kRegion];
  __shared__ Quad<T> signal[kRegion * kPitch];
  for (int64_t index = blockIdx.x; index < op.tiles; index += gridDim.x) {
    if (threadIdx.x == 0) tile = op.tile_at(index);
    __syncthreads();
    Arithmetic<T> sums[kPositions<kLanes>][kLanes] = {};
    for (int64_t tap_z = 0; tap_z < tile.z.taps.taps; ++tap_z) {
      const Reach z = op.z.reach(tile.z, tap_z);
      for (int64_t tap_y = 0; tap_y < tile.y.taps.taps; tap_y += op.y.chunk) {
        for (int64_t tap_x = 0; tap_x < tile.x.taps.taps; tap_x += op.x.chunk) {
          const Reach y = op.y.reach(tile.y, tap_y);
          const Reach x = op.x.reach(tile.x, tap_x);
          find_sources(op, tile, z, y, x, sources);
          int places[kPositions<kLanes>];
#pragma unroll
          for (int n = 0; n < kPositions<kLanes>; ++n) {
            int unit, row, column;
            const bool in_tile = op.position(n, &unit, &row, &column);
            places[n] = in_tile ? ((unit * y.length + row) * x.length + column) * kPitch : 0;
          }
          __syncthreads();
          for (int64_t channel = 0; channel < op.group_inputs; channel += kChannels<T>) {
            stage_signal(op, tile, op.tile_units * y.length * x.length, channel, sources, signal);
            __syncthreads();
            accumulate(op, tile, z, y, x, places, channel, signal, sums);
            __syncthreads();
          }
        }
      }
    }
    store_sums(op, tile, sums);
    __syncthreads();
  }
}

constexpr int kPatchRows = 4;
constexpr int kPatchColumns = 8;
constexpr int kPatchLanes = 2;  // channels of a thread
constexpr int kPatchChannels = 32 * kPatchLanes;
constexpr int kPatches = kThreadsPerBlock / 32;  // of a block
constexpr int kPatchInputs = 32;                 // input channels in shared memory
// Pooling windows that reach a patch: its own and one row and one column before it.
constexpr int kPatchWindowRows = kPatchRows / 2 + 1;
constexpr int kPatchWindowColumns = kPatchColumns / 2 + 1;
constexpr int kPatchWindows = kPatchWindowRows * kPatchWindowColumns;
constexpr uint8_t kNothing = 255;  // the switch of a window that adds nothing

// One input channel of up to 16 windows that reach a patch, in four words each: their values, and their switches with
// four to a word.
struct PatchWindows {
  Vector<float, 4> value[4];
  Vector<uint32_t, 4> codes;
};
static_assert(kPatchWindows <= 16);

// Where a window's value and switch lie in their first channel; input < 0 where there is none. Its switches from
// `first_code` on name positions of the plane that is sent.
struct PatchSource {
  int64_t input;
  int64_t switches;
  int first_code;
};

// A patch: its first element of the whole result. `unit` is past the end where a block has more patches than are left.
struct Patch {
  int64_t unit;
  int64_t z;
  int64_t y;
  int64_t x;
};

template <typename Op>
__device__ __forceinline__ Patch patch_at(const Op& op, int64_t index) {
  Patch patch;
  index = op.x.tiles.divide(index, &patch.x);
  index = op.y.tiles.divide(index, &patch.y);
  patch.unit = op.z.tiles.divide(index, &patch.z);
  patch.z += op.z.begin;
  patch.y = op.y.begin / 2 * 2 + patch.y * kPatchRows;
  patch.x = op.x.begin / 2 * 2 + patch.x * kPatchColumns;
  return patch;
}

template <typename Op>
__device__ __forceinline__ PatchSource patch_source(const Op& op, const Patch& patch, int64_t tap_z, int window) {
  const int64_t y = patch.y / 2 - 1 + window / kPatchWindowColumns;
  const int64_t x = patch.x / 2 - 1 + window % kPatchWindowColumns;
  if (y < 0 || y >= op.y.pooled || x < 0 || x >= op.x.pooled) return {-1, 0, 0};
  const Source source = op.source_of(patch.unit, patch.z - tap_z * op.z.dilation, 2 * y, 2 * x);
  return {source.rows == 0 ? -1 : source.input, source.switches, 4 * source.tap_z};
}

// Adds one pooled value, times the weights, to what it reaches; `kWindow` and `kCode` say where it lies in the patch.
template <int kWindow, int kCode>
__device__ __forceinline__ void scatter(float value, const float (&weight)[9][kPatchLanes],
                                        float (&sums)[kPatchRows][kPatchColumns][kPatchLanes]) {
  constexpr int kY = 2 * (kWindow / kPatchWindowColumns - 1) + kCode / 2;
  constexpr int kX = 2 * (kWindow % kPatchWindowColumns - 1) + kCode % 2;
#pragma unroll
  for (int tap = 0; tap < 9; ++tap) {
    const int y = kY + tap / 3;
    const int x = kX + tap % 3;
    if (y < 0 || y >= kPatchRows || x < 0 || x >= kPatchColumns) continue;
#pragma unroll
    for (int lane = 0; lane < kPatchLanes; ++lane) sums[y][x][lane] = fmaf(value, weight[tap][lane], sums[y][x][lane]);
  }
}

// The same for all windows from kWindow on. A switch that names no position of its window adds nothing.
template <int kWindow = 0>
__device__ __forceinline__ void scatter_all(const PatchWindows& windows, const float (&weight)[9][kPatchLanes],
                                            float (&sums)[kPatchRows][kPatchColumns][kPatchLanes]) {
  if constexpr (kWindow < kPatchWindows) {
    const uint32_t code = windows.codes.lane[kWindow / 4] >> (kWindow % 4 * 8) & 0xff;
    if (code < 4) {
      const float value = windows.value[kWindow / 4].lane[kWindow % 4];
      if (code == 0) {
        scatter<kWindow, 0>(value, weight, sums);
      } else if (code == 1) {
        scatter<kWindow, 1>(value, weight, sums);
      } else if (code == 2) {
        scatter<kWindow, 2>(value, weight, sums);
      } else {
        scatter<kWindow, 3>(value, weight, sums);
      }
    }
    scatter_all<kWindow + 1>(windows, weight, sums);
  }
}

// Neighbouring threads take neighbouring channels where these lie together, neighbouring windows elsewhere.
template <typename T>
__device__ __forceinline__ void stage_windows(const Backproject<T>& op, int64_t first_input, int inputs,
                                              const PatchSource (&sources)[kPatches][16],
                                              PatchWindows (&windows)[kPatches][kPatchInputs]) {
  constexpr int kPlaces = kPatches * 16;
  for (int item = static_cast<int>(threadIdx.x); item < kPlaces * kPatchInputs; item += kThreadsPerBlock) {
    const bool together = op.input_strides.channel == 1;
    const int place = together ? item / kPatchInputs : item % kPlaces;
    const int input = together ? item % kPatchInputs : item / kPlaces;
    const PatchSource source = sources[place / 16][place % 16];
    float value = 0;
    uint8_t code = kNothing;
    if (source.input >= 0 && input < inputs) {
      const int64_t channel = first_input + input;
      value = to_arithmetic(op.input[source.input + channel * op.input_strides.channel]);
      const uint8_t* codes = static_cast<const uint8_t*>(op.switches) + source.switches;
      code = static_cast<uint8_t>(codes[channel * op.switch_strides.channel] - source.first_code);
    }
    value = op.relu ? rectify(value) : value;
    PatchWindows& to = windows[place / 16][input];
    to.value[place % 16 / 4].lane[place % 4] = value;
    reinterpret_cast<uint8_t*>(to.codes.lane)[place % 16] = value == 0 ? kNothing : code;
  }
}

template <typename T>
__device__ __forceinline__ void store_patch(const Backproject<T>& op, const Patch& patch, int64_t channel,
                                            const float (&sums)[kPatchRows][kPatchColumns][kPatchLanes]) {
  if (patch.unit >= op.units) return;
#pragma unroll
  for (int position = 0; position < kPatchRows * kPatchColumns; ++position) {
    const int row = position / kPatchColumns;
    const int column = position % kPatchColumns;
    const int64_t i = patch.y + row - op.y.begin;
    const int64_t j = patch.x + column - op.x.begin;
    if (i < 0 || i >= op.y.size || j < 0 || j >= op.x.size) continue;
    const bool visible = op.is_visible(patch.unit, patch.z - op.z.begin, i, j);
    Vector<T, kPatchLanes> rounded;
#pragma unroll
    for (int lane = 0; lane < kPatchLanes; ++lane)
      rounded.lane[lane] = round_to<T>(visible ? sums[row][column][lane] : 0);
    op.store_lanes(patch.unit, channel, patch.z - op.z.begin, i, j, rounded);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreadsPerBlock, 4) backproject_patches(const Backproject<T> op) {
  __shared__ Patch patches[kPatches];  // in registers they would be held beside the sums
  __shared__ PatchSource sources[kPatches][16];
  __shared__ PatchWindows windows[kPatches][kPatchInputs];
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int64_t index = blockIdx.x; index < op.tiles; index += gridDim.x) {
    int64_t first_patch, tile, group;
    const int64_t channel_tile = op.patch_tiles.divide(index, &first_patch);
    group = op.channel_tiles.divide(channel_tile, &tile);
    if (lane == 0) patches[warp] = patch_at(op, first_patch * kPatches + warp);
    __syncthreads();
    const int64_t output = tile * kPatchChannels + lane * kPatchLanes;
    const int64_t tap_step = op.inputs * op.group_outputs;
    float sums[kPatchRows][kPatchColumns][kPatchLanes] = {};
    for (int tap_z = 0; tap_z < static_cast<int>(op.z.kernel); ++tap_z) {
      if (lane < 16) {
        sources[warp][lane] =
            lane < kPatchWindows ? patch_source(op, patches[warp], tap_z, lane) : PatchSource{-1, 0, 0};
      }
      __syncthreads();
      const T* weights = op.packed + 9 * tap_z * tap_step + group * op.group_inputs * op.group_outputs + output;
      for (int64_t first = 0; first < op.group_inputs; first += kPatchInputs) {
        const int inputs = static_cast<int>(at_most(op.group_inputs - first, kPatchInputs));
        stage_windows(op, group * op.group_inputs + first, inputs, sources, windows);
        __syncthreads();
#pragma unroll 1
        for (int input = 0; input < inputs; ++input) {
          float weight[9][kPatchLanes];
#pragma unroll
          for (int tap = 0; tap < 9; ++tap) {
            const auto loaded = load_shared_data<kPatchLanes>(weights + tap * tap_step);
#pragma unroll
            for (int i = 0; i < kPatchLanes; ++i) weight[tap][i] = to_arithmetic(loaded.lane[i]);
          }
          weights += op.group_outputs;
          const PatchWindows reaching = windows[warp][input];
          scatter_all(reaching, weight, sums);
        }
        __syncthreads();
      }
    }
    store_patch(op, patches[warp], group * op.group_outputs + output, sums);
    __syncthreads();
  }
}

// The axes of an operation, as far as the arguments tell: windows of `pooled` positions, cut out of maps of `switches`.
template <typename T>
void place_axes(Backproject<T>& op, const PerAxis& pooled, const PerAxis& switches, const Placement& place) {
  const auto fill = [](BackprojectAxis& axis, int64_t pooled, int64_t switches, int64_t begin, int64_t size,
                       int64_t base, int64_t map_size) {
    axis.pooled = pooled;
    axis.switches = switches;
    axis.begin = begin;
    axis.size = size;
    axis.base = base;
    axis.map_size = map_size;
  };
  fill(op.z, pooled.z, switches.z, place.begin.z, place.size.z, place.base.z, place.map_size.z);
  fill(op.y, pooled.y, switches.y, place.begin.y, place.size.y, place.base.y, place.map_size.y);
  fill(op.x, pooled.x, switches.x, place.begin.x, place.size.x, place.base.x, place.map_size.x);
  op.bounded = place.map_size.z != -1 || place.map_size.y != -1 || place.map_size.x != -1;
}

// Fills in what one axis of the kernel needs beside these.
inline void set_axis(BackprojectAxis& axis, const Axis& pooling, const Axis& convolution) {
  const int64_t window_divisor = std::gcd(pooling.stride, pooling.dilation);
  const int64_t divisor = std::gcd(convolution.stride, convolution.dilation);
  axis.window = WindowAxis(pooling);
  axis.window_step = static_cast<int>(pooling.dilation / window_divisor);
  axis.window_tap_step = static_cast<int>(pooling.stride / window_divisor);
  axis.signal = unpooled_size(axis.pooled, pooling);
  axis.kernel = convolution.kernel;
  axis.stride = convolution.stride;
  axis.dilation = convolution.dilation;
  axis.tap_step = convolution.stride / divisor;
  axis.shift = convolution.dilation / divisor;
  axis.step = convolution.stride * pooling.stride;
  const int64_t taps = ceil_divide(convolution.kernel, axis.tap_step);
  const int64_t reachable = kHalo / axis.shift + 1;
  axis.chunk = static_cast<int>(taps < reachable ? taps : reachable);
  axis.phases = Divider(convolution.stride < axis.size ? convolution.stride : axis.size);
}

// Chooses the tile with which the fewest blocks compute a window; windows that leave room share a tile.
template <typename T>
void set_tiles(Backproject<T>& op, int lanes, int positions) {
  const int64_t channel_vectors = ceil_divide(op.group_outputs, lanes);
  op.channel_threads = 1;
  while (op.channel_threads < kMostChannelThreads && op.channel_threads < channel_vectors) op.channel_threads *= 2;
  op.channel_tiles = Divider(ceil_divide(channel_vectors, op.channel_threads));

  const int64_t slots = kThreadsPerBlock / op.channel_threads * positions;
  const int64_t rows = ceil_divide(op.y.size, op.y.stride);
  const int64_t columns = ceil_divide(op.x.size, op.x.stride);
  const int64_t halo_y = (op.y.chunk - 1) * op.y.shift;
  const int64_t halo_x = (op.x.chunk - 1) * op.x.shift;
  int64_t fewest = std::numeric_limits<int64_t>::max();
  int64_t region = kRegion;
  for (int64_t width = 1; width <= columns && width <= slots && (width + halo_x) * (1 + halo_y) <= kRegion; ++width) {
    int64_t height = kRegion / (width + halo_x) - halo_y;
    height = std::min({height, slots / width, rows});
    const int64_t blocks = ceil_divide(rows, height) * ceil_divide(columns, width);
    const int64_t needed = (height + halo_y) * (width + halo_x);
    if (blocks > fewest || (blocks == fewest && needed >= region)) continue;
    fewest = blocks;
    region = needed;
    op.y.tile = static_cast<int>(height);
    op.x.tile = static_cast<int>(width);
  }
  op.z.tile = 1;
  op.z.chunk = 1;
  op.z.tiles = Divider(ceil_divide(op.z.size, op.z.stride));
  op.y.tiles = Divider(ceil_divide(rows, op.y.tile));
  op.x.tiles = Divider(ceil_divide(columns, op.x.tile));
  const int64_t sharing = std::min({slots / (op.y.tile * op.x.tile), kRegion / region, op.units});
  op.tile_units = fewest == 1 && sharing > 1 ? static_cast<int>(sharing) : 1;
  op.tiles = ceil_divide(op.units, op.tile_units) * op.z.tiles.divisor() * op.y.tiles.divisor() * op.x.tiles.divisor() *
             op.z.phases.divisor() * op.y.phases.divisor() * op.x.phases.divisor() * op.groups.divisor() *
             op.channel_tiles.divisor();
}

template <typename T>
bool takes_patches(const Backproject<T>& op, const Pooling& pooling, const Pooling& convolution) {
  const bool side_by_side = pooling.z.kernel == pooling.z.stride && pooling.z.dilation == 1;
  return op.switches != nullptr && !op.two_byte_switches && side_by_side && is_square_in_planes(pooling, 2, 2) &&
         convolution.z.stride == 1 && is_square_in_planes(convolution, 3, 1) &&
         op.group_outputs % kPatchChannels == 0 && aligned<kPatchLanes>(op.packed);
}

template <typename T>
void set_patches(Backproject<T>& op) {
  op.z.tiles = Divider(op.z.size);
  op.y.tiles = Divider(ceil_divide(op.y.begin % 2 + op.y.size, kPatchRows));
  op.x.tiles = Divider(ceil_divide(op.x.begin % 2 + op.x.size, kPatchColumns));
  op.channel_tiles = Divider(op.group_outputs / kPatchChannels);
  op.patch_tiles =
      Divider(ceil_divide(op.units * op.z.tiles.divisor() * op.y.tiles.divisor() * op.x.tiles.divisor(), kPatches));
  op.tiles = op.patch_tiles.divisor() * op.channel_tiles.divisor() * op.groups.divisor();
}

// Calls launch(kernel, parameters, threads) for an operation whose pointers, strides, counts and lengths are set.
// Returns false if `path` names a kernel that cannot do it.
template <typename T, typename Launch>
bool launch_backproject(Backproject<T> op, const Pooling& pooling, const Pooling& convolution, Path path,
                        Launch&& launch) {
  if (op.units == 0) return true;
  set_axis(op.z, pooling.z, convolution.z);
  set_axis(op.y, pooling.y, convolution.y);
  set_axis(op.x, pooling.x, convolution.x);
  const bool together = op.output_strides.channel == 1;
  if constexpr (!std::is_same_v<T, double>) {
    const bool patches = takes_patches(op, pooling, convolution);
    if (path == Path::kPatches && !patches) return false;
    if (patches && path != Path::kTiles) {
      op.wide_output = together && aligned<kPatchLanes>(op.output);
      set_patches(op);
      launch(backproject_patches<T>, op, op.tiles * kThreadsPerBlock);
      return true;
    }
  }
  if (path == Path::kPatches) return false;
  constexpr int kLanes = kWidestLanes<T>;
  const bool wide = op.group_outputs % kLanes == 0 && aligned<kLanes>(op.packed);
  const bool wide_switches = op.two_byte_switches ? aligned<kQuad<T>>(static_cast<const int16_t*>(op.switches))
                                                  : aligned<kQuad<T>>(static_cast<const uint8_t*>(op.switches));
  op.wide_input = op.input_strides.channel == 1 && op.group_inputs % kQuad<T> == 0 && aligned<kQuad<T>>(op.input) &&
                  (op.switches == nullptr || (op.switch_strides.channel == 1 && wide_switches));
  op.wide_output = !wide || (together && aligned<kLanes>(op.output));
  set_tiles(op, wide ? kLanes : 1, wide ? kPositions<kLanes> : kPositions<1>);
  launch(wide ? backproject_tiles<T, kLanes> : backproject_tiles<T, 1>, op, op.tiles * kThreadsPerBlock);
  return true;
}

}  // namespace deconv_kernels::cuda

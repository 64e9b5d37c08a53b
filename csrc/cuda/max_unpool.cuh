// Max unpooling in gather form: every output element is written once, by the thread that collected what the windows
// looking at it give. The kernels are shared with max_unpool_window.cuh, which differs in where the switches lie.
//
// A thread of `pairs` fills 2x2 windows of contiguous rows with 16-byte stores. A thread of `columns` walks down a
// column of stride x stride output tiles and reads every window row once; both take maps of one plane. A thread of
// `general` computes one output element.
#pragma once

#include "device.cuh"
#include "geometry/pooling.h"
#include "windows.cuh"

namespace deconv_kernels::cuda {

// The switches of one image: that of window (z, y, x) is at offset + z * plane_length + y * row_length + x * channels,
// where begin_z <= z < end_z and so on; other windows have none and contribute nothing.
struct SwitchRegion {
  int64_t offset;
  int64_t plane_length;
  int64_t row_length;
  int64_t begin_z;
  int64_t end_z;
  int64_t begin_y;
  int64_t end_y;
  int64_t begin_x;
  int64_t end_x;
};

__device__ __forceinline__ int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

template <typename T, typename SwitchType>
struct MaxUnpool {
  using Scalar = T;
  using Switch = SwitchType;

  const T* input;          // [images][pooled_depth][pooled_height][pooled_width][channels]
  const Switch* switches;  // as input
  T* output;               // [images][depth][height][width][channels]
  Layout layout;
  int64_t pooled_depth;
  int64_t pooled_height;
  int64_t pooled_width;
  int64_t depth;
  int64_t height;
  int64_t width;
  WindowAxis z;
  WindowAxis y;
  WindowAxis x;
  Divider by_height;
  bool last;  // overlap: the last window wins; otherwise they are summed
  bool relu;
  Items items;

  __device__ __forceinline__ SwitchRegion switches_of(int64_t image) const {
    const int64_t row_length = pooled_width * layout.channels;
    const int64_t plane_length = pooled_height * row_length;
    const int64_t offset = image * pooled_depth * plane_length;
    return {offset, plane_length, row_length, 0, pooled_depth, 0, pooled_height, 0, pooled_width};
  }
};

// 2x2 windows, stride 2, no padding, contiguous rows that the windows tile: kLanes columns of kRows pairs of rows per
// thread. One window sees each position, so sum and last differ only in the sign of zero.
template <typename T, int kLanes, int kRows>
__global__ void __launch_bounds__(kThreadsPerBlock) max_unpool_pairs(const MaxUnpool<T, uint8_t> unpool) {
  using A = Arithmetic<T>;
  constexpr int kWindows = kLanes / 2;
  for (int64_t index = first_item(); index < unpool.items.count; index += item_step()) {
    const Item item = unpool.items.at(index);
    const int64_t first_row = item.row * kRows;
    const int64_t pooled =
        (item.image * unpool.pooled_height + first_row) * unpool.pooled_width + item.column * kWindows;

    Vector<T, kWindows> input[kRows];
    Vector<uint8_t, kWindows> switches[kRows];
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      input[row] = {};
      switches[row] = {};
      if (first_row + row < unpool.pooled_height) {
        input[row] = load_once<kWindows>(unpool.input + (pooled + row * unpool.pooled_width));
        switches[row] = load_once<kWindows>(unpool.switches + (pooled + row * unpool.pooled_width));
      }
    }
    T* output = unpool.output + ((item.image * unpool.height + 2 * first_row) * unpool.width + item.column * kLanes);
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      Vector<T, kLanes> rows[2];
#pragma unroll
      for (int window = 0; window < kWindows; ++window) {
        A value = to_arithmetic(input[row].lane[window]);
        value = unpool.last ? value : A(0) + value;
        value = unpool.relu ? rectify(value) : value;
        const T rounded = round_to<T>(value);
#pragma unroll
        for (int tap = 0; tap < 4; ++tap) {
          rows[tap / 2].lane[2 * window + tap % 2] = switches[row].lane[window] == tap ? rounded : round_to<T>(A(0));
        }
      }
      if (first_row + row < unpool.pooled_height) {
        store(output, rows[0]);
        store(output + unpool.width, rows[1]);
      }
      output += 2 * unpool.width;
    }
  }
}

// kKernel x kKernel windows with any padding and no dilation: kRows tiles of kStride x kStride output elements, one
// below the other, per thread. The tile that begins a window is seen by kReach windows along each axis. One lane
// means one channel.
template <typename Unpool, int kLanes, int kKernel, int kStride, int kRows>
__global__ void __launch_bounds__(kThreadsPerBlock) max_unpool_columns(const Unpool unpool) {
  using T = typename Unpool::Scalar;
  using A = Arithmetic<T>;
  constexpr int kReach = (kKernel + kStride - 1) / kStride;
  constexpr int kWindowRows = kRows + kReach - 1;
  for (int64_t index = first_item(); index < unpool.items.count; index += item_step()) {
    const Item item = unpool.items.at(index);
    const int64_t channel = item.inner * kLanes;
    const int64_t channels = kLanes == 1 ? 1 : unpool.layout.channels;
    const SwitchRegion region = unpool.switches_of(item.image);
    const int64_t first_y = item.row * kRows - (kReach - 1);
    const int64_t first_x = item.column - (kReach - 1);
    const Span has_x(first_x, kReach, region.begin_x, region.end_x);
    const Span has_y(first_y, kWindowRows, region.begin_y, region.end_y);

    // A window without a switch gets one that names nothing.
    Vector<T, kLanes> input[kWindowRows][kReach];
    Vector<uint8_t, kLanes> switches[kWindowRows][kReach];
    const int64_t row_length = unpool.pooled_width * channels;
    int64_t input_row = (item.image * unpool.pooled_height + first_y) * row_length + first_x * channels + channel;
    int64_t switch_row = region.offset + first_y * region.row_length + first_x * channels + channel;
#pragma unroll
    for (int row = 0; row < kWindowRows; ++row) {
#pragma unroll
      for (int reach = 0; reach < kReach; ++reach) {
        const bool there = has_y.has(row) && has_x.has(reach);
        input[row][reach] =
            load_shared_data_or<kLanes>(there, unpool.input, input_row + reach * channels, round_to<T>(A(0)));
        switches[row][reach] =
            load_shared_data_or<kLanes>(there, unpool.switches, switch_row + reach * channels, uint8_t{0xff});
      }
      input_row += row_length;
      switch_row += region.row_length;
    }

    const int64_t y = item.row * kRows * kStride - unpool.y.padding;
    const int64_t x = item.column * kStride - unpool.x.padding;
    const Span inside_y(y, kRows * kStride, 0, unpool.height);
    const Span inside_x(x, kStride, 0, unpool.width);
    int64_t offset = ((item.image * unpool.height + y) * unpool.width + x) * channels + channel;
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
#pragma unroll
      for (int phase_y = 0; phase_y < kStride; ++phase_y) {
#pragma unroll
        for (int phase_x = 0; phase_x < kStride; ++phase_x) {
          Vector<T, kLanes> rounded;
#pragma unroll
          for (int lane = 0; lane < kLanes; ++lane) {
            A sum = 0;
#pragma unroll
            for (int reach_y = 0; reach_y < kReach; ++reach_y) {
              const int tap_y = phase_y + (kReach - 1 - reach_y) * kStride;
#pragma unroll
              for (int reach_x = 0; reach_x < kReach; ++reach_x) {
                const int tap_x = phase_x + (kReach - 1 - reach_x) * kStride;
                if (tap_y >= kKernel || tap_x >= kKernel) continue;
                const A value = to_arithmetic(input[row + reach_y][reach_x].lane[lane]);
                const A updated = unpool.last ? value : sum + value;
                sum = switches[row + reach_y][reach_x].lane[lane] == tap_y * kKernel + tap_x ? updated : sum;
              }
            }
            rounded.lane[lane] = round_to<T>(unpool.relu ? rectify(sum) : sum);
          }
          if (inside_y.has(row * kStride + phase_y) && inside_x.has(phase_x)) {
            store(unpool.output + (offset + phase_x * channels), rounded);
          }
        }
        offset += unpool.width * channels;
      }
    }
  }
}

// Any window: one output element per thread. Without the blocks asked for, ptxas would spill for more of them.
template <typename Unpool, int kLanes>
__global__ void __launch_bounds__(kThreadsPerBlock, kLanes == 1 ? 6 : 1) max_unpool_general(const Unpool unpool) {
  using T = typename Unpool::Scalar;
  using A = Arithmetic<T>;
  for (int64_t index = first_item(); index < unpool.items.count; index += item_step()) {
    const Item item = unpool.items.at(index);
    const int64_t channel = item.inner * kLanes;
    const int64_t channels = unpool.layout.channels;
    const SwitchRegion region = unpool.switches_of(item.image);
    int64_t out_y;
    const int64_t out_z = unpool.by_height.divide(item.row, &out_y);
    const int64_t begin_z = larger(unpool.z.first_window(out_z), region.begin_z);
    const int64_t begin_y = larger(unpool.y.first_window(out_y), region.begin_y);
    const int64_t begin_x = larger(unpool.x.first_window(item.column), region.begin_x);
    const int64_t end_z = unpool.z.end_window(out_z, region.end_z);
    const int64_t end_y = unpool.y.end_window(out_y, region.end_y);
    const int64_t end_x = unpool.x.end_window(item.column, region.end_x);

    A sum[kLanes] = {};
#pragma unroll 1
    for (int64_t z = begin_z; z < end_z; ++z) {
      const int64_t tap_z = unpool.z.tap_at(out_z, z);
      if (tap_z < 0) continue;
#pragma unroll 1
      for (int64_t y = begin_y; y < end_y; ++y) {
        const int64_t tap_y = unpool.y.tap_at(out_y, y);
        if (tap_y < 0) continue;
        const int64_t row = ((item.image * unpool.pooled_depth + z) * unpool.pooled_height + y) * unpool.pooled_width;
        const int64_t switch_row = region.offset + z * region.plane_length + y * region.row_length;
        const int64_t code = (tap_z * unpool.y.kernel + tap_y) * unpool.x.kernel;
#pragma unroll 1
        for (int64_t x = begin_x; x < end_x; ++x) {
          const int64_t tap_x = unpool.x.tap_at(item.column, x);
          if (tap_x < 0) continue;
          const int tap = static_cast<int>(code + tap_x);
          const auto switches = load_shared_data<kLanes>(unpool.switches + (switch_row + x * channels + channel));
          const auto input = load_shared_data<kLanes>(unpool.input + ((row + x) * channels + channel));
#pragma unroll
          for (int lane = 0; lane < kLanes; ++lane) {
            const A value = to_arithmetic(input.lane[lane]);
            const A updated = unpool.last ? value : sum[lane] + value;
            sum[lane] = static_cast<int>(switches.lane[lane]) == tap ? updated : sum[lane];
          }
        }
      }
    }
    Vector<T, kLanes> rounded;
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) {
      rounded.lane[lane] = round_to<T>(unpool.relu ? rectify(sum[lane]) : sum[lane]);
    }
    const int64_t row = item.image * unpool.depth * unpool.height + item.row;
    store(unpool.output + ((row * unpool.width + item.column) * channels + channel), rounded);
  }
}

template <int kLanes, typename Unpool>
bool unpool_takes_lanes(const Unpool& unpool) {
  return unpool.layout.channels % kLanes == 0 && aligned<kLanes>(unpool.input) && aligned<kLanes>(unpool.output) &&
         aligned<kLanes>(unpool.switches);
}

template <typename T>
bool takes_pairs(const MaxUnpool<T, uint8_t>& unpool, const Pooling& pooling) {
  constexpr int kLanes = kWidestLanes<T>;
  return unpool.layout.channels == 1 && is_square_window(pooling, unpool.depth, 2, 2) && pooling.y.padding == 0 &&
         pooling.x.padding == 0 && 2 * unpool.pooled_height == unpool.height &&
         2 * unpool.pooled_width == unpool.width && unpool.width % kLanes == 0 && aligned<kLanes>(unpool.output) &&
         aligned<kLanes / 2>(unpool.input) && aligned<kLanes / 2>(unpool.switches);
}

template <int kLanes, int kKernel, int kRows, typename Unpool, typename Launch>
void launch_max_unpool_columns(Unpool unpool, Launch&& launch) {
  constexpr int kStride = 2;
  const int64_t tile_rows = ceil_divide(unpool.height + unpool.y.padding, kStride);
  const int64_t tile_columns = ceil_divide(unpool.width + unpool.x.padding, kStride);
  unpool.items =
      Items(unpool.layout.images, ceil_divide(tile_rows, kRows), tile_columns, unpool.layout.channels / kLanes);
  launch(max_unpool_columns<Unpool, kLanes, kKernel, kStride, kRows>, unpool, unpool.items.count);
}

template <int kLanes, typename Unpool, typename Launch>
void launch_max_unpool_general(Unpool unpool, Launch&& launch) {
  unpool.items =
      Items(unpool.layout.images, unpool.depth * unpool.height, unpool.width, unpool.layout.channels / kLanes);
  unpool.by_height = Divider(unpool.height);
  launch(max_unpool_general<Unpool, kLanes>, unpool, unpool.items.count);
}

// Columns or general, for switches that lie anywhere. Returns false if `path` names a kernel that cannot do it.
template <typename Unpool, typename Launch>
bool launch_gather(Unpool unpool, const Pooling& pooling, Path path, Launch&& launch) {
  constexpr int kLanes = kWidestLanes<typename Unpool::Scalar>;
  if (path == Path::kPairs) return false;
  unpool.z = WindowAxis(pooling.z);
  unpool.y = WindowAxis(pooling.y);
  unpool.x = WindowAxis(pooling.x);
  const bool wide = unpool_takes_lanes<kLanes>(unpool);
  if constexpr (std::is_same_v<typename Unpool::Switch, uint8_t>) {
    const bool two = is_square_window(pooling, unpool.depth, 2, 2);
    const bool three = is_square_window(pooling, unpool.depth, 3, 2);
    const bool single = unpool.layout.channels == 1;
    const bool columns = (two || three) && (wide || single);
    if (path == Path::kAutomatic) path = columns ? Path::kColumns : Path::kGeneral;
    if (path == Path::kColumns) {
      if (two && wide) {
        launch_max_unpool_columns<kLanes, 2, 1>(unpool, launch);
      } else if (two && single) {
        launch_max_unpool_columns<1, 2, 4>(unpool, launch);
      } else if (three && wide) {
        launch_max_unpool_columns<kLanes, 3, 1>(unpool, launch);
      } else if (three && single) {
        launch_max_unpool_columns<1, 3, 4>(unpool, launch);
      } else {
        return false;
      }
      return true;
    }
    if (wide) {
      launch_max_unpool_general<kLanes>(unpool, launch);
      return true;
    }
  }
  if (path == Path::kColumns) return false;
  launch_max_unpool_general<1>(unpool, launch);
  return true;
}

// Calls launch(kernel, parameters, items) with the kernel for this unpooling. Returns false if `path` names a kernel
// that cannot do it.
template <typename T, typename Switch, typename Launch>
bool launch_max_unpool(MaxUnpool<T, Switch> unpool, const Pooling& pooling, Path path, Launch&& launch) {
  if constexpr (std::is_same_v<Switch, uint8_t>) {
    const bool pairs = takes_pairs(unpool, pooling);
    if (path == Path::kPairs && !pairs) return false;
    if (pairs && (path == Path::kAutomatic || path == Path::kPairs)) {
      constexpr int kLanes = kWidestLanes<T>;
      constexpr int kRows = 2;
      unpool.items = Items(unpool.layout.images, ceil_divide(unpool.pooled_height, kRows), unpool.width / kLanes, 1);
      launch(max_unpool_pairs<T, kLanes, kRows>, unpool, unpool.items.count);
      return true;
    }
  }
  return launch_gather(unpool, pooling, path, launch);
}

}  // namespace deconv_kernels::cuda

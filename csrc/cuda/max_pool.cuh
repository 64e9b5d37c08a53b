// Max pooling with switches: three kernels, from the narrowest and fastest to the one that takes any window.
//
// A thread of `pairs` pools 2x2 windows of contiguous rows with 16-byte loads. A thread of `columns` walks down a
// column of windows and reads every row once; both take maps of one plane. A thread of `general` pools one window.
//
// Rectifying the first tap of a window rectifies the window: a negative later tap is never larger than it.
#pragma once

#include "device.cuh"
#include "geometry/pooling.h"
#include "windows.cuh"

namespace deconv_kernels::cuda {

template <typename T, typename Switch>
struct MaxPool {
  const T* input;    // [images][depth][height][width][channels]
  const T* bias;     // [C] or null
  T* output;         // [images][pooled_depth][pooled_height][pooled_width][channels]
  Switch* switches;  // as output
  Layout layout;
  int64_t depth;
  int64_t height;
  int64_t width;
  int64_t pooled_depth;
  int64_t pooled_height;
  int64_t pooled_width;
  WindowAxis z;
  WindowAxis y;
  WindowAxis x;
  Divider by_pooled_height;
  bool relu;
  Items items;

  __device__ __forceinline__ const T* bias_at(int64_t image, int64_t channel) const {
    int64_t image_of_sample;
    layout.images_per_sample.divide(image, &image_of_sample);
    return bias + image_of_sample * layout.channels + channel;
  }
};

// value + bias in T, as a separate addition would give it.
template <typename T>
__device__ __forceinline__ Arithmetic<T> add_bias(Arithmetic<T> value, T bias) {
  return to_arithmetic(round_to<T>(value + to_arithmetic(bias)));
}

// 2x2 windows, stride 2, no padding, contiguous rows: kLanes columns of kRows pairs of rows per thread.
template <typename T, int kLanes, int kRows>
__global__ void __launch_bounds__(kThreadsPerBlock) max_pool_pairs(const MaxPool<T, uint8_t> pool) {
  using A = Arithmetic<T>;
  constexpr int kWindows = kLanes / 2;
  for (int64_t index = first_item(); index < pool.items.count; index += item_step()) {
    const Item item = pool.items.at(index);
    const int64_t first_row = item.row * kRows;
    const T* input = pool.input + (item.image * pool.height + 2 * first_row) * pool.width + item.column * kLanes;

    Vector<T, kLanes> raw[2 * kRows];
#pragma unroll
    for (int row = 0; row < 2 * kRows; ++row) {
      raw[row] = {};
      if (first_row + row / 2 < pool.pooled_height) raw[row] = load_once<kLanes>(input + row * pool.width);
    }
    A values[2 * kRows][kLanes];
#pragma unroll
    for (int row = 0; row < 2 * kRows; ++row) {
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) values[row][lane] = to_arithmetic(raw[row].lane[lane]);
    }
    if (pool.bias != nullptr) {
      const T bias = *pool.bias_at(item.image, 0);
#pragma unroll
      for (int row = 0; row < 2 * kRows; ++row) {
#pragma unroll
        for (int lane = 0; lane < kLanes; ++lane) values[row][lane] = add_bias<T>(values[row][lane], bias);
      }
    }

    int64_t offset = (item.image * pool.pooled_height + first_row) * pool.pooled_width + item.column * kWindows;
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      Vector<T, kWindows> output;
      Vector<uint8_t, kWindows> switches;
#pragma unroll
      for (int window = 0; window < kWindows; ++window) {
        A maximum = values[2 * row][2 * window];
        maximum = pool.relu ? rectify(maximum) : maximum;
        int where = 0;
#pragma unroll
        for (int tap = 1; tap < 4; ++tap) {
          const A value = values[2 * row + tap / 2][2 * window + tap % 2];
          const bool larger = replaces(value, maximum);
          maximum = larger ? value : maximum;
          where = larger ? tap : where;
        }
        output.lane[window] = round_to<T>(maximum);
        switches.lane[window] = static_cast<uint8_t>(where);
      }
      if (first_row + row < pool.pooled_height) {
        store(pool.output + offset, output);
        store(pool.switches + offset, switches);
      }
      offset += pool.pooled_width;
    }
  }
}

// kKernel x kKernel windows with any padding and no dilation: kRows windows one below the other per thread. The
// maximum of each row of taps is taken once, although overlapping windows share rows. One lane means one channel.
template <typename T, int kLanes, int kKernel, int kStride, int kRows>
__global__ void __launch_bounds__(kThreadsPerBlock, least_blocks(kLanes, kKernel))
    max_pool_columns(const MaxPool<T, uint8_t> pool) {
  using A = Arithmetic<T>;
  constexpr int kInputRows = (kRows - 1) * kStride + kKernel;
  for (int64_t index = first_item(); index < pool.items.count; index += item_step()) {
    const Item item = pool.items.at(index);
    const int64_t channels = kLanes == 1 ? 1 : pool.layout.channels;
    const int64_t channel = item.inner * kLanes;
    const int64_t first_row = item.row * kRows;
    const int64_t top = first_row * kStride - pool.y.padding;
    const int64_t left = item.column * kStride - pool.x.padding;
    const int64_t rows_needed = (pool.pooled_height - first_row - 1) * kStride + kKernel;
    const int64_t row_length = pool.width * channels;
    const int64_t corner = (item.image * pool.height + top) * row_length + left * channels + channel;

    const Span inside_x(left, kKernel, 0, pool.width);
    const Span inside_y(top, kInputRows, 0, rows_needed < pool.height - top ? top + rows_needed : pool.height);

    // What lies outside the map is -inf and replaces nothing.
    const T lowest = round_to<T>(kLowest<A>);
    Vector<T, kLanes> raw[kInputRows][kKernel];
    int64_t row_start = corner;
#pragma unroll
    for (int row = 0; row < kInputRows; ++row) {
#pragma unroll
      for (int tap = 0; tap < kKernel; ++tap) {
        raw[row][tap] = load_shared_data_or<kLanes>(inside_y.has(row) && inside_x.has(tap), pool.input,
                                                    row_start + tap * channels, lowest);
      }
      row_start += row_length;
    }
    Vector<T, kLanes> bias = {};
    if (pool.bias != nullptr) {
      const T* from = pool.bias_at(item.image, channel);
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) bias.lane[lane] = from[lane];
    }

    // Padding is at most half the kernel, so the first tap inside the map is one of the first two.
    const bool padded_x = left < 0;
    const bool padded_y = top < 0;
    A maximum[kRows][kLanes];
    int where[kRows][kLanes];
#pragma unroll
    for (int row = 0; row < kInputRows; ++row) {
      A values[kKernel][kLanes];
#pragma unroll
      for (int tap = 0; tap < kKernel; ++tap) {
#pragma unroll
        for (int lane = 0; lane < kLanes; ++lane) values[tap][lane] = to_arithmetic(raw[row][tap].lane[lane]);
      }
      if (pool.bias != nullptr) {
#pragma unroll
        for (int tap = 0; tap < kKernel; ++tap) {
          const bool inside = inside_y.has(row) && inside_x.has(tap);
#pragma unroll
          for (int lane = 0; lane < kLanes; ++lane) {
            values[tap][lane] = inside ? add_bias<T>(values[tap][lane], bias.lane[lane]) : kLowest<A>;
          }
        }
      }

#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) {
        A row_maximum = values[0][lane];
        int row_where = 0;
#pragma unroll
        for (int tap = 1; tap < kKernel; ++tap) {
          const bool larger = replaces(values[tap][lane], row_maximum);
          row_maximum = larger ? values[tap][lane] : row_maximum;
          row_where = larger ? tap : row_where;
        }
        const A first = padded_x ? values[1][lane] : values[0][lane];
        const A start = pool.relu ? rectify(first) : kLowest<A>;
#pragma unroll
        for (int window = 0; window < kRows; ++window) {
          const int tap_y = row - window * kStride;
          if (tap_y < 0 || tap_y >= kKernel) continue;
          if (tap_y == 0 || (window == 0 && tap_y == 1 && padded_y)) {
            maximum[window][lane] = start;
            where[window][lane] = tap_y * kKernel + (padded_x ? 1 : 0);
          }
          const bool larger = replaces(row_maximum, maximum[window][lane]);
          maximum[window][lane] = larger ? row_maximum : maximum[window][lane];
          where[window][lane] = larger ? tap_y * kKernel + row_where : where[window][lane];
        }
      }
    }

    const int64_t pooled_row_length = pool.pooled_width * channels;
    int64_t offset =
        (item.image * pool.pooled_height + first_row) * pooled_row_length + item.column * channels + channel;
#pragma unroll
    for (int window = 0; window < kRows; ++window) {
      if (first_row + window < pool.pooled_height) {
        Vector<T, kLanes> output;
        Vector<uint8_t, kLanes> switches;
#pragma unroll
        for (int lane = 0; lane < kLanes; ++lane) {
          output.lane[lane] = round_to<T>(maximum[window][lane]);
          switches.lane[lane] = static_cast<uint8_t>(where[window][lane]);
        }
        store(pool.output + offset, output);
        store(pool.switches + offset, switches);
      }
      offset += pooled_row_length;
    }
  }
}

// Any window: one per thread.
template <typename T, typename Switch, int kLanes>
__global__ void __launch_bounds__(kThreadsPerBlock, kLanes == 1 ? 8 : 1)
    max_pool_general(const MaxPool<T, Switch> pool) {
  using A = Arithmetic<T>;
  for (int64_t index = first_item(); index < pool.items.count; index += item_step()) {
    const Item item = pool.items.at(index);
    const int64_t channel = item.inner * kLanes;
    int64_t pooled_y;
    const int64_t pooled_z = pool.by_pooled_height.divide(item.row, &pooled_y);
    const int64_t start_z = pool.z.start(pooled_z);
    const int64_t start_y = pool.y.start(pooled_y);
    const int64_t start_x = pool.x.start(item.column);
    const int first_z = static_cast<int>(pool.z.first_tap(start_z));
    const int first_y = static_cast<int>(pool.y.first_tap(start_y));
    const int first_x = static_cast<int>(pool.x.first_tap(start_x));
    const int end_z = static_cast<int>(pool.z.end_tap(start_z, pool.depth));
    const int end_y = static_cast<int>(pool.y.end_tap(start_y, pool.height));
    const int end_x = static_cast<int>(pool.x.end_tap(start_x, pool.width));
    const int kernel_y = static_cast<int>(pool.y.kernel);
    const int kernel_x = static_cast<int>(pool.x.kernel);
    const bool reached = first_z < end_z && first_y < end_y && first_x < end_x;

    A maximum[kLanes];
    int where[kLanes];
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) {
      maximum[lane] = kLowest<A>;
      where[lane] = reached ? (first_z * kernel_y + first_y) * kernel_x + first_x : 0;
    }
#pragma unroll 1
    for (int tap_z = first_z; tap_z < end_z; ++tap_z) {
      const int64_t z = start_z + tap_z * pool.z.dilation;
#pragma unroll 1
      for (int tap_y = first_y; tap_y < end_y; ++tap_y) {
        const int64_t y = start_y + tap_y * pool.y.dilation;
        const int64_t row = ((item.image * pool.depth + z) * pool.height + y) * pool.width;
        const int code = (tap_z * kernel_y + tap_y) * kernel_x;
#pragma unroll 1
        for (int tap_x = first_x; tap_x < end_x; ++tap_x) {
          const int64_t x = start_x + tap_x * pool.x.dilation;
          const Vector<T, kLanes> raw =
              load_shared_data<kLanes>(pool.input + ((row + x) * pool.layout.channels + channel));
          A values[kLanes];
#pragma unroll
          for (int lane = 0; lane < kLanes; ++lane) values[lane] = to_arithmetic(raw.lane[lane]);
          if (pool.bias != nullptr) {
            const T* bias = pool.bias_at(item.image, channel);
#pragma unroll
            for (int lane = 0; lane < kLanes; ++lane) values[lane] = add_bias<T>(values[lane], bias[lane]);
          }
#pragma unroll
          for (int lane = 0; lane < kLanes; ++lane) {
            const A value = pool.relu ? rectify(values[lane]) : values[lane];
            const bool larger = replaces(value, maximum[lane]);
            maximum[lane] = larger ? value : maximum[lane];
            where[lane] = larger ? code + tap_x : where[lane];
          }
        }
      }
    }

    const int64_t offset =
        ((item.image * pool.pooled_depth * pool.pooled_height + item.row) * pool.pooled_width + item.column) *
            pool.layout.channels +
        channel;
    Vector<T, kLanes> output;
    Vector<Switch, kLanes> switches;
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) {
      output.lane[lane] = round_to<T>(maximum[lane]);
      switches.lane[lane] = static_cast<Switch>(where[lane]);
    }
    store(pool.output + offset, output);
    store(pool.switches + offset, switches);
  }
}

template <int kLanes, typename T, typename Switch>
bool takes_lanes(const MaxPool<T, Switch>& pool) {
  return pool.layout.channels % kLanes == 0 && aligned<kLanes>(pool.input) && aligned<kLanes>(pool.output) &&
         aligned<kLanes>(pool.switches);
}

template <typename T, typename Switch>
bool takes_pairs(const MaxPool<T, Switch>& pool, const Pooling& pooling) {
  constexpr int kLanes = kWidestLanes<T>;
  return std::is_same_v<Switch, uint8_t> && pool.layout.channels == 1 && is_square_window(pooling, pool.depth, 2, 2) &&
         pooling.y.padding == 0 && pooling.x.padding == 0 && 2 * pool.pooled_height <= pool.height &&
         2 * pool.pooled_width == pool.width && pool.width % kLanes == 0 && aligned<kLanes>(pool.input) &&
         aligned<kLanes / 2>(pool.output) && aligned<kLanes / 2>(pool.switches);
}

template <typename T, int kLanes, int kKernel, int kRows, typename Launch>
void launch_max_pool_columns(MaxPool<T, uint8_t> pool, Launch&& launch) {
  pool.items = Items(pool.layout.images, ceil_divide(pool.pooled_height, kRows), pool.pooled_width,
                     pool.layout.channels / kLanes);
  launch(max_pool_columns<T, kLanes, kKernel, 2, kRows>, pool, pool.items.count);
}

template <typename T, typename Switch, int kLanes, typename Launch>
void launch_max_pool_general(MaxPool<T, Switch> pool, Launch&& launch) {
  pool.items = Items(pool.layout.images, pool.pooled_depth * pool.pooled_height, pool.pooled_width,
                     pool.layout.channels / kLanes);
  pool.by_pooled_height = Divider(pool.pooled_height);
  launch(max_pool_general<T, Switch, kLanes>, pool, pool.items.count);
}

// Calls launch(kernel, parameters, items) with the kernel for this pooling. Returns false if `path` names a kernel
// that cannot do it.
template <typename T, typename Switch, typename Launch>
bool launch_max_pool(MaxPool<T, Switch> pool, const Pooling& pooling, Path path, Launch&& launch) {
  constexpr int kLanes = kWidestLanes<T>;
  const bool wide = takes_lanes<kLanes>(pool);
  pool.z = WindowAxis(pooling.z);
  pool.y = WindowAxis(pooling.y);
  pool.x = WindowAxis(pooling.x);
  if constexpr (std::is_same_v<Switch, uint8_t>) {
    const bool pairs = takes_pairs(pool, pooling);
    const bool two = is_square_window(pooling, pool.depth, 2, 2);
    const bool three = is_square_window(pooling, pool.depth, 3, 2);
    const bool single = pool.layout.channels == 1;
    const bool columns = (two || three) && (wide || single);
    if (path == Path::kAutomatic) path = pairs ? Path::kPairs : columns ? Path::kColumns : Path::kGeneral;
    if (path == Path::kPairs) {
      if (!pairs) return false;
      constexpr int kRows = 2;
      pool.items = Items(pool.layout.images, ceil_divide(pool.pooled_height, kRows), pool.width / kLanes, 1);
      launch(max_pool_pairs<T, kLanes, kRows>, pool, pool.items.count);
      return true;
    }
    if (path == Path::kColumns) {
      if (two && wide) {
        launch_max_pool_columns<T, kLanes, 2, 1>(pool, launch);
      } else if (two && single) {
        launch_max_pool_columns<T, 1, 2, 4>(pool, launch);
      } else if (three && wide) {
        launch_max_pool_columns<T, kLanes, 3, 2>(pool, launch);
      } else if (three && single) {
        launch_max_pool_columns<T, 1, 3, 4>(pool, launch);
      } else {
        return false;
      }
      return true;
    }
    if (wide) {
      launch_max_pool_general<T, Switch, kLanes>(pool, launch);
      return true;
    }
  }
  if (path == Path::kPairs || path == Path::kColumns) return false;
  launch_max_pool_general<T, Switch, 1>(pool, launch);
  return true;
}

}  // namespace deconv_kernels::cuda

// Rows of a max-pooling with switches.
//
// A window's maximum starts as its first tap inside the map, rectified if asked; a later tap replaces it where it is
// greater or NaN. As the running maximum is then never negative, only the first tap needs rectifying.
#pragma once

#include "kernels.h"
#include "vector.h"

namespace deconv_kernels::DECONV_CPU_CAPABILITY {

template <typename T, int N>
struct Maximum {
  using Values = Vector<Compute<T>, N>;
  using Codes = Vector<Code<T>, N>;

  Values values;
  Codes codes;

  void start(Values first, int64_t code, bool relu) {
    values = relu ? (first < Values{} ? Values{} : first) : first;
    codes = Codes{} + static_cast<Code<T>>(code);
  }

  void see(Values next, int64_t code) {
    const Codes wins = (next > values) | (next != next);
    values = wins ? next : values;
    codes = wins ? Codes{} + static_cast<Code<T>>(code) : codes;
  }

  void store(T* to_values, void* to_switches, int64_t at, bool wide_switches) const {
    ::deconv_kernels::DECONV_CPU_CAPABILITY::store<T, N>(to_values + at, values);
    if (wide_switches) {
      store_unaligned(static_cast<int16_t*>(to_switches) + at, convert<int16_t, Code<T>, N>(codes));
    } else {
      store_unaligned(static_cast<uint8_t*>(to_switches) + at, convert<uint8_t, Code<T>, N>(codes));
    }
  }
};

struct TapRange {
  int64_t start;  // input position of tap 0
  int64_t first;
  int64_t end;

  TapRange(int64_t pooled, int64_t size, const Axis& axis)
      : start(window_start(pooled, axis)), first(first_tap(start, axis)), end(end_tap(start, size, axis)) {}
  bool empty() const { return first >= end; }
};

// The planes of taps of a row of windows, as far as they lie inside the map. They begin at those of the plane of
// windows with the given number and go on to the next one.
template <typename T>
class TapPlanes {
 public:
  TapPlanes(const MaxPoolParams& params, int64_t number)
      : p_(params),
        map_(number / params.pooled.z),
        pooled_z_(number % params.pooled.z),
        plane_(params.size.y * params.size.x),
        taps_(params.pooling.y.kernel * params.pooling.x.kernel) {
    find();
  }

  void next() {
    if (++pooled_z_ == p_.pooled.z) {
      pooled_z_ = 0;
      ++map_;
    }
    find();
  }

  bool empty() const { return count_ <= 0; }
  int64_t map() const { return map_; }  // number of the map, over all images and channels
  int64_t count() const { return count_; }
  const T* first() const { return first_; }
  int64_t step() const { return p_.pooling.z.dilation * plane_; }  // from one to the next, in elements
  int64_t code() const { return code_; }                           // switch of the first tap of the first one
  int64_t code_step() const { return taps_; }                      // from one to the next

 private:
  void find() {
    const TapRange z(pooled_z_, p_.size.z, p_.pooling.z);
    count_ = z.end - z.first;
    first_ = static_cast<const T*>(p_.input) + (map_ * p_.size.z + z.start + z.first * p_.pooling.z.dilation) * plane_;
    code_ = z.first * taps_;
  }

  const MaxPoolParams& p_;
  int64_t map_;
  int64_t pooled_z_;
  int64_t plane_;
  int64_t taps_;  // of a plane
  int64_t count_;
  const T* first_;
  int64_t code_;
};

// N neighbouring windows of one row, `stride` elements apart in memory, whose taps [x_first, x_end) all lie inside.
// kVolume tells whether they may have more than one plane of taps.
template <typename T, int N, int kStride, int kKernel, bool kBias, bool kVolume>
inline void pool_windows(const TapPlanes<T>& planes, const MaxPoolParams& p, const TapRange& y, int64_t x_start,
                         int64_t x_first, int64_t x_end, Compute<T> bias, T* values, void* switches, int64_t at) {
  using Values = Vector<Compute<T>, N>;
  const Axis& axis = p.pooling.x;
  const auto biased = [&](Values seen) { return kBias ? round_to<T, N>(seen + bias) : seen; };
  constexpr bool kPairs = kStride == 2 && (kKernel == 2 || kKernel == 3);
  constexpr auto kAll = std::make_integer_sequence<int, N>{};
  Maximum<T, N> maximum;
  const auto row_at = [&](const T* plane, int64_t tap_y) {
    return plane + (y.start + tap_y * p.pooling.y.dilation) * p.size.x + x_start;
  };
  [[maybe_unused]] const int64_t count = planes.count();
  const int64_t first_code = kVolume ? planes.code() : 0;
  if constexpr (kPairs) {
    // One pair of loads holds the even and the odd taps of all N windows.
    const auto see_row = [&](const T* row, int64_t code, bool is_first) {
      const Values low = load<T, N>(row);
      const Values high = load<T, N>(row + N);
      prefetch_ahead<2 * N>(row);
      const Values even = biased(even_lanes(low, high, kAll));
      if (is_first) {
        maximum.start(even, code, p.relu);
      } else {
        maximum.see(even, code);
      }
      maximum.see(biased(odd_lanes(low, high, kAll)), code + 1);
      if constexpr (kKernel == 3) maximum.see(biased(load_strided<T, N, 2>(row + 2, 2)), code + 2);
    };
    const auto see_plane = [&](const T* plane, int64_t code, int64_t first_tap) {
      for (int64_t tap_y = first_tap; tap_y < y.end; ++tap_y) {
        see_row(row_at(plane, tap_y), code + tap_y * axis.kernel, false);
      }
    };
    see_row(row_at(planes.first(), y.first), first_code + y.first * axis.kernel, true);
    see_plane(planes.first(), first_code, y.first + 1);
    if constexpr (kVolume) {
      for (int64_t number = 1; number < count; ++number) {
        see_plane(planes.first() + number * planes.step(), first_code + number * planes.code_step(), y.first);
      }
    }
  } else {
    const auto tap = [&](const T* row, int64_t tap_x) {
      return biased(load_strided<T, N, kStride>(row + tap_x * axis.dilation, axis.stride));
    };
    maximum.start(tap(row_at(planes.first(), y.first), x_first), first_code + y.first * axis.kernel + x_first, p.relu);
    const auto see_plane = [&](const T* plane, int64_t code, bool is_first) {
      for (int64_t tap_y = y.first; tap_y < y.end; ++tap_y) {
        const T* row = row_at(plane, tap_y);
        for (int64_t tap_x = x_first + (is_first && tap_y == y.first); tap_x < x_end; ++tap_x) {
          maximum.see(tap(row, tap_x), code + tap_y * axis.kernel + tap_x);
        }
      }
    };
    see_plane(planes.first(), first_code, true);
    if constexpr (kVolume) {
      for (int64_t number = 1; number < count; ++number) {
        see_plane(planes.first() + number * planes.step(), first_code + number * planes.code_step(), false);
      }
    }
  }
  maximum.store(values, switches, at, p.wide_switches);
}

// A window without a tap inside the map, which dilation and padding can make, is -inf with switch 0.
template <typename T>
inline void store_empty_windows(const MaxPoolParams& p, T* values, void* switches, int64_t begin, int64_t end) {
  for (int64_t at = begin; at < end; ++at) {
    store_one(values + at, -static_cast<Compute<T>>(__builtin_inf()));
    if (p.wide_switches) {
      static_cast<int16_t*>(switches)[at] = 0;
    } else {
      static_cast<uint8_t*>(switches)[at] = 0;
    }
  }
}

template <typename T, int kStride, int kKernel, bool kBias, bool kVolume>
void pool_rows(const MaxPoolParams& p, int64_t begin, int64_t end) {
  const Axis& axis = p.pooling.x;
  T* values = static_cast<T*>(p.values);
  // Windows [inner_begin, inner_end) lie inside the map in x with every tap.
  const int64_t inner_end = p.size.x < extent(axis) - axis.padding
                                ? 0
                                : floor_divide(p.size.x - extent(axis) + axis.padding, axis.stride) + 1;
  const int64_t last = inner_end < p.pooled.x ? inner_end : p.pooled.x;
  const int64_t first = ceil_divide(axis.padding, axis.stride);
  const int64_t inner_begin = first < last ? first : last;
  int64_t pooled_y = begin % p.pooled.y;
  TapPlanes<T> planes(p, begin / p.pooled.y);
  for (int64_t row = begin; row < end; ++row, ++pooled_y) {
    if (pooled_y == p.pooled.y) {
      pooled_y = 0;
      planes.next();
    }
    const TapRange y(pooled_y, p.size.y, p.pooling.y);
    const int64_t at = row * p.pooled.x;
    if (y.empty() || planes.empty()) {
      store_empty_windows(p, values, p.switches, at, at + p.pooled.x);
      continue;
    }
    Compute<T> bias{};
    if constexpr (kBias) bias = load_one(static_cast<const T*>(p.bias) + planes.map() % p.channels);
    const auto border = [&](int64_t border_begin, int64_t border_end) {
      for (int64_t pooled = border_begin; pooled < border_end; ++pooled) {
        const TapRange x(pooled, p.size.x, axis);
        if (x.empty()) {
          store_empty_windows(p, values, p.switches, at + pooled, at + pooled + 1);
        } else {
          pool_windows<T, 1, 1, 0, kBias, kVolume>(planes, p, y, x.start, x.first, x.end, bias, values, p.switches,
                                                   at + pooled);
        }
      }
    };
    border(0, inner_begin);
    for_each_vector<kLanes<T>>(inner_begin, last, [&](auto lanes, int64_t pooled) {
      constexpr int kCount = decltype(lanes)::value;
      pool_windows<T, kCount, kStride, kKernel, kBias, kVolume>(planes, p, y, window_start(pooled, axis), 0,
                                                                axis.kernel, bias, values, p.switches, at + pooled);
    });
    border(last, p.pooled.x);
  }
}

// The rows of taps of windows side by side, as far as they lie inside the map.
struct TapRows {
  TapRange z;
  TapRange y;

  TapRows(const MaxPoolParams& p, int64_t pooled_z, int64_t pooled_y)
      : z(pooled_z, p.size.z, p.pooling.z), y(pooled_y, p.size.y, p.pooling.y) {}
  bool empty() const { return z.empty() || y.empty(); }
};

// Number of the map's row that a row of taps looks at.
inline int64_t row_of(const MaxPoolParams& p, const TapRows& rows, int64_t tap_z, int64_t tap_y) {
  return (rows.z.start + tap_z * p.pooling.z.dilation) * p.size.y + rows.y.start + tap_y * p.pooling.y.dilation;
}

// Switch of the first tap of a row of taps.
inline int64_t code_of(const MaxPoolParams& p, int64_t tap_z, int64_t tap_y) {
  return (tap_z * p.pooling.y.kernel + tap_y) * p.pooling.x.kernel;
}

template <typename T, bool kBias>
void pool_rows_channels_last(const MaxPoolParams& p, int64_t begin, int64_t end) {
  T* values = static_cast<T*>(p.values);
  constexpr int kUnroll = 4;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t image = row / p.pooled.y / p.pooled.z;
    const T* from = static_cast<const T*>(p.input) + image * p.size.z * p.size.y * p.size.x * p.channels;
    const TapRows rows(p, row / p.pooled.y % p.pooled.z, row % p.pooled.y);
    for (int64_t pooled = 0; pooled < p.pooled.x; ++pooled) {
      const TapRange x(pooled, p.size.x, p.pooling.x);
      const int64_t at = (row * p.pooled.x + pooled) * p.channels;
      if (rows.empty() || x.empty()) {
        store_empty_windows(p, values, p.switches, at, at + p.channels);
        continue;
      }
      // kVectors vectors of N channels each, from `channel` on.
      const auto pool_channels = [&](auto lanes, auto vectors, int64_t channel) {
        constexpr int N = decltype(lanes)::value;
        constexpr int kVectors = decltype(vectors)::value;
        Maximum<T, N> maxima[kVectors];
        const auto tap = [&](int64_t row_of_map, int64_t tap_x, int v) {
          const int64_t pixel = row_of_map * p.size.x + x.start + tap_x * p.pooling.x.dilation;
          const T* const at_tap = from + pixel * p.channels + channel + v * N;
          prefetch_ahead<N>(at_tap);
          const auto seen = load<T, N>(at_tap);
          if constexpr (!kBias) return seen;
          return round_to<T, N>(seen + load<T, N>(static_cast<const T*>(p.bias) + channel + v * N));
        };
        for (int v = 0; v < kVectors; ++v) {
          const auto first = tap(row_of(p, rows, rows.z.first, rows.y.first), x.first, v);
          maxima[v].start(first, code_of(p, rows.z.first, rows.y.first) + x.first, p.relu);
        }
        int64_t tap_x = x.first + 1;
        for (int64_t tap_z = rows.z.first; tap_z < rows.z.end; ++tap_z) {
          for (int64_t tap_y = rows.y.first; tap_y < rows.y.end; ++tap_y, tap_x = x.first) {
            const int64_t row_of_map = row_of(p, rows, tap_z, tap_y);
            const int64_t code = code_of(p, tap_z, tap_y);
            for (; tap_x < x.end; ++tap_x) {
              for (int v = 0; v < kVectors; ++v) maxima[v].see(tap(row_of_map, tap_x, v), code + tap_x);
            }
          }
        }
        for (int v = 0; v < kVectors; ++v) {
          maxima[v].store(values, p.switches, at + channel + v * N, p.wide_switches);
        }
      };
      constexpr int N = kLanes<T>;
      int64_t channel = 0;
      for (; channel + kUnroll * N <= p.channels; channel += kUnroll * N) {
        pool_channels(std::integral_constant<int, N>{}, std::integral_constant<int, kUnroll>{}, channel);
      }
      for_each_vector<N>(channel, p.channels, [&](auto lanes, int64_t from_channel) {
        pool_channels(lanes, std::integral_constant<int, 1>{}, from_channel);
      });
    }
  }
}

template <typename T, bool kBias, bool kVolume>
void max_pool_rows(const MaxPoolParams& p, int64_t begin, int64_t end) {
  const Axis& x = p.pooling.x;
  if (x.stride == 2 && x.dilation == 1 && x.kernel == 2) return pool_rows<T, 2, 2, kBias, kVolume>(p, begin, end);
  if (x.stride == 2 && x.dilation == 1 && x.kernel == 3) return pool_rows<T, 2, 3, kBias, kVolume>(p, begin, end);
  if (x.stride == 1) return pool_rows<T, 1, 0, kBias, kVolume>(p, begin, end);
  if (x.stride == 2) return pool_rows<T, 2, 0, kBias, kVolume>(p, begin, end);
  return pool_rows<T, 0, 0, kBias, kVolume>(p, begin, end);
}

template <typename T, bool kBias>
void max_pool_rows(bool channels_last, const MaxPoolParams& p, int64_t begin, int64_t end) {
  if (channels_last) return pool_rows_channels_last<T, kBias>(p, begin, end);
  return p.pooling.z.kernel == 1 ? max_pool_rows<T, kBias, false>(p, begin, end)
                                 : max_pool_rows<T, kBias, true>(p, begin, end);
}

template <typename T>
void max_pool_rows(bool channels_last, const MaxPoolParams& p, int64_t begin, int64_t end) {
  return p.bias == nullptr ? max_pool_rows<T, false>(channels_last, p, begin, end)
                           : max_pool_rows<T, true>(channels_last, p, begin, end);
}

}  // namespace deconv_kernels::DECONV_CPU_CAPABILITY

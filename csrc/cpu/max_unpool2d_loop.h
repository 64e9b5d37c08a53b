// Rows of a switch-guided unpooling, in gather form: each output element asks the windows that can see it, in row-major
// order, whether their switch names it. Every element is written once.
#pragma once

#include "kernels.h"
#include "vector.h"

namespace deconv_kernels::DECONV_CPU_CAPABILITY {

template <typename V>
inline V rectified(V values) {
  return values < V{} ? V{} : values;
}

template <typename T, typename S, int N>
inline Vector<Code<T>, N> load_codes(const S* switches) {
  return convert<Code<T>, S, N>(load_unaligned<Vector<S, N>>(switches));
}

// Adds `values` where the switches name the tap `code`, or with kLast puts them in place of what was there.
template <typename T, int N, bool kLast>
inline void take_named(Vector<Compute<T>, N>& sum, Vector<Compute<T>, N> values, Vector<Code<T>, N> codes,
                       Code<T> code) {
  const auto named = codes == Vector<Code<T>, N>{} + code;
  if constexpr (kLast) {
    sum = named ? values : sum;
  } else {
    sum += named ? values : Vector<Compute<T>, N>{};
  }
}

// A row of windows (or with channels_last a single window) that sees the output at hand.
template <typename T, typename S>
struct Seen {
  const T* values;
  const S* switches;
  Code<T> code;  // of its first tap in question
};

// Walks the output rows [begin, ..) and finds for each the rows of windows that see it, and the columns of those that
// lie inside unit and map. `planes` is the number of planes a unit has, `pixel` the distance of neighbouring columns.
template <typename T, typename S>
class SeenRows {
 public:
  SeenRows(const MaxUnpool2dParams& params, int64_t begin, int64_t planes, int64_t pixel)
      : p_(params),
        rows_(new Seen<T, S>[params.phases_y.most]),
        planes_(planes),
        pixel_(pixel),
        y_(begin % params.output_height),
        plane_(begin / params.output_height % planes),
        unit_(begin / params.output_height / planes),
        phase_((y_ + params.pooling.y.padding) % params.pooling.y.stride),
        window_((y_ + params.pooling.y.padding) / params.pooling.y.stride) {
    enter_plane();
    find();
  }
  ~SeenRows() { delete[] rows_; }
  SeenRows(const SeenRows&) = delete;
  SeenRows& operator=(const SeenRows&) = delete;

  void next() {
    if (++phase_ == p_.pooling.y.stride) {
      phase_ = 0;
      ++window_;
    }
    if (++y_ == p_.output_height) {
      y_ = 0;
      phase_ = p_.pooling.y.padding % p_.pooling.y.stride;
      window_ = p_.pooling.y.padding / p_.pooling.y.stride;
      if (++plane_ == planes_) {
        plane_ = 0;
        ++unit_;
      }
      // The last row of all has no next plane to enter.
      if (unit_ < p_.units) enter_plane();
    }
    find();
  }

  const Seen<T, S>* begin() const { return rows_; }
  const Seen<T, S>* end() const { return rows_ + count_; }

  int64_t begin_x = 0;
  int64_t end_x = 0;

 private:
  void enter_plane() {
    const int64_t image = p_.image == nullptr ? unit_ : p_.image[unit_];
    const int64_t origin_y = p_.origin == nullptr ? 0 : p_.origin[2 * unit_];
    const int64_t origin_x = p_.origin == nullptr ? 0 : p_.origin[2 * unit_ + 1];
    begin_x = inside(0, origin_x, p_.width);
    end_x = inside(p_.map_width, origin_x, p_.width);
    begin_y_ = inside(0, origin_y, p_.height);
    end_y_ = inside(p_.map_height, origin_y, p_.height);
    if (begin_x >= end_x) end_y_ = begin_y_;
    if (begin_y_ >= end_y_) return;
    const int64_t channels = p_.channels / planes_;
    values_ = static_cast<const T*>(p_.input) + (unit_ * planes_ + plane_) * channels * p_.height * p_.width;
    switches_ = static_cast<const S*>(p_.switches) +
                (image * planes_ + plane_) * channels * p_.map_height * p_.map_width +
                (origin_y * p_.map_width + origin_x) * pixel_;
  }

  void find() {
    count_ = 0;
    if (phase_ >= p_.phases_y.count) return;
    const PhaseTap* end = p_.phases_y.taps + p_.phases_y.begin[phase_ + 1];
    for (const PhaseTap* tap = p_.phases_y.taps + p_.phases_y.begin[phase_]; tap != end; ++tap) {
      const int64_t row = window_ - tap->back;
      if (row < begin_y_ || row >= end_y_) continue;
      rows_[count_++] = {values_ + row * p_.width * pixel_, switches_ + row * p_.map_width * pixel_,
                         static_cast<Code<T>>(tap->tap * p_.pooling.x.kernel)};
    }
  }

  // Unit position of map position `edge`, held within the unit; safe for any origin.
  static int64_t inside(int64_t edge, int64_t origin, int64_t size) {
    if (origin >= edge) return 0;
    return origin <= edge - size ? size : edge - origin;
  }

  const MaxUnpool2dParams& p_;
  Seen<T, S>* rows_;
  int64_t planes_;
  int64_t pixel_;
  int64_t y_;
  int64_t plane_;
  int64_t unit_;
  int64_t phase_;
  int64_t window_;
  int64_t begin_y_ = 0;
  int64_t end_y_ = 0;
  const T* values_ = nullptr;
  const S* switches_ = nullptr;
  int64_t count_ = 0;
};

// The output of phase `phase` that window column `window` begins, one element.
template <typename T, typename S, bool kLast>
inline Compute<T> unpool_one(const MaxUnpool2dParams& p, const SeenRows<T, S>& rows, int64_t phase, int64_t window) {
  Vector<Compute<T>, 1> sum{};
  if (phase < p.phases_x.count) {
    const PhaseTap* end = p.phases_x.taps + p.phases_x.begin[phase + 1];
    for (const auto& row : rows) {
      for (const PhaseTap* tap = p.phases_x.taps + p.phases_x.begin[phase]; tap != end; ++tap) {
        const int64_t column = window - tap->back;
        if (column < rows.begin_x || column >= rows.end_x) continue;
        take_named<T, 1, kLast>(sum, Vector<Compute<T>, 1>{load_one(row.values + column)},
                                Vector<Code<T>, 1>{row.switches[column]}, row.code + static_cast<Code<T>>(tap->tap));
      }
    }
  }
  return p.relu ? rectified(sum)[0] : sum[0];
}

// The outputs of one phase that N window columns from `window` on begin.
template <typename T, typename S, int N, bool kLast>
inline Vector<Compute<T>, N> unpool_phase(const MaxUnpool2dParams& p, const SeenRows<T, S>& rows, int64_t phase,
                                          int64_t window) {
  Vector<Compute<T>, N> sum{};
  if (phase >= p.phases_x.count) return sum;
  const PhaseTap* end = p.phases_x.taps + p.phases_x.begin[phase + 1];
  for (const auto& row : rows) {
    for (const PhaseTap* tap = p.phases_x.taps + p.phases_x.begin[phase]; tap != end; ++tap) {
      const int64_t column = window - tap->back;
      take_named<T, N, kLast>(sum, load<T, N>(row.values + column), load_codes<T, S, N>(row.switches + column),
                              row.code + static_cast<Code<T>>(tap->tap));
    }
  }
  return sum;
}

// Both phases of a stride of 2, interleaved; kKernel 2 and 3 (undilated) load each window once for all its taps. The
// window before `window` is not looked at where `window` is the row's first.
template <typename T, typename S, int N, bool kLast, int kKernel>
inline void unpool_pairs(const MaxUnpool2dParams& p, const SeenRows<T, S>& rows, int64_t window, T* out) {
  using Values = Vector<Compute<T>, N>;
  using Codes = Vector<Code<T>, N>;
  constexpr auto kAll = std::make_integer_sequence<int, N>{};
  prefetch_ahead<2 * N, true>(out);
  Values even{};
  Values odd{};
  if constexpr (kKernel == 0) {
    even = unpool_phase<T, S, N, kLast>(p, rows, 0, window);
    odd = unpool_phase<T, S, N, kLast>(p, rows, 1, window);
  } else {
    for (const auto& row : rows) {
      const Values values = load<T, N>(row.values + window);
      const Codes codes = load_codes<T, S, N>(row.switches + window);
      if constexpr (kKernel == 3) {
        if (window > rows.begin_x) {
          take_named<T, N, kLast>(even, load<T, N>(row.values + window - 1),
                                  load_codes<T, S, N>(row.switches + window - 1), row.code + 2);
        } else {
          take_named<T, N, kLast>(even, shifted_lanes(values, Values{}, kAll), shifted_lanes(codes, Codes{} - 1, kAll),
                                  row.code + 2);
        }
      }
      take_named<T, N, kLast>(even, values, codes, row.code);
      take_named<T, N, kLast>(odd, values, codes, row.code + 1);
    }
  }
  if (p.relu) {
    even = rectified(even);
    odd = rectified(odd);
  }
  if constexpr (N == 1) {
    store_one(out, even[0]);
    store_one(out + 1, odd[0]);
  } else {
    store<T, N>(out, interleave_low(even, odd, kAll));
    store<T, N>(out + N, interleave_high(even, odd, kAll));
  }
}

template <typename T, typename S, bool kLast, int kStride, int kKernel>
void unpool_rows(const MaxUnpool2dParams& p, int64_t begin, int64_t end) {
  const int64_t stride = kStride == 0 ? p.pooling.x.stride : kStride;
  const int64_t padding = p.pooling.x.padding;
  SeenRows<T, S> rows(p, begin, p.channels, 1);
  for (int64_t index = begin; index < end; ++index, rows.next()) {
    T* out = static_cast<T*>(p.output) + index * p.output_width;
    const auto single = [&](int64_t from, int64_t to) {
      for (int64_t x = from; x < to; ++x) {
        store_one(out + x, unpool_one<T, S, kLast>(p, rows, (x + padding) % stride, (x + padding) / stride));
      }
    };
    // Window columns [inner_begin, inner_end): all the outputs they begin belong to this row, and every window that
    // sees those lies inside unit and map.
    const int64_t after_padding = ceil_divide(padding, stride);
    const int64_t after_border = rows.begin_x + (kKernel == 3 ? 0 : p.phases_x.farthest);
    const int64_t inner_begin = after_padding > after_border ? after_padding : after_border;
    const int64_t whole = (p.output_width + padding) / stride;
    const int64_t inner_end = whole < rows.end_x ? whole : rows.end_x;
    if (kStride == 0 || inner_begin >= inner_end) {
      single(0, p.output_width);
      continue;
    }
    single(0, inner_begin * stride - padding);
    for_each_vector<kLanes<T>>(inner_begin, inner_end, [&](auto lanes, int64_t window) {
      constexpr int N = decltype(lanes)::value;
      T* to = out + window * stride - padding;
      if constexpr (kStride == 1) {
        const auto sum = unpool_phase<T, S, N, kLast>(p, rows, 0, window);
        store<T, N>(to, p.relu ? rectified(sum) : sum);
      } else {
        unpool_pairs<T, S, N, kLast, kKernel>(p, rows, window, to);
      }
    });
    single(inner_end * stride - padding, p.output_width);
  }
}

template <typename T, typename S, bool kLast>
void unpool_rows_channels_last(const MaxUnpool2dParams& p, int64_t begin, int64_t end) {
  constexpr int kVectors = 4;
  constexpr int kWidest = kLanes<T>;
  const Axis& axis = p.pooling.x;
  SeenRows<T, S> rows(p, begin, 1, p.channels);
  auto* const seen = new Seen<T, S>[p.phases_y.most * p.phases_x.most];
  for (int64_t index = begin; index < end; ++index, rows.next()) {
    T* out = static_cast<T*>(p.output) + index * p.output_width * p.channels;
    int64_t phase = axis.padding % axis.stride;
    int64_t window = axis.padding / axis.stride;
    for (int64_t x = 0; x < p.output_width; ++x, out += p.channels) {
      int64_t count = 0;
      if (phase < p.phases_x.count) {
        const PhaseTap* taps_end = p.phases_x.taps + p.phases_x.begin[phase + 1];
        for (const auto& row : rows) {
          for (const PhaseTap* tap = p.phases_x.taps + p.phases_x.begin[phase]; tap != taps_end; ++tap) {
            const int64_t column = window - tap->back;
            if (column < rows.begin_x || column >= rows.end_x) continue;
            seen[count++] = {row.values + column * p.channels, row.switches + column * p.channels,
                             row.code + static_cast<Code<T>>(tap->tap)};
          }
        }
      }
      const auto unpool_channels = [&]<int N, int kCount>(int64_t channel) __attribute__((always_inline)) {
        Vector<Compute<T>, N> sums[kCount] = {};
        for (int64_t i = 0; i < count; ++i) {
          for (int v = 0; v < kCount; ++v) {
            const int64_t at = channel + v * N;
            take_named<T, N, kLast>(sums[v], load<T, N>(seen[i].values + at),
                                    load_codes<T, S, N>(seen[i].switches + at), seen[i].code);
          }
        }
        for (int v = 0; v < kCount; ++v) store<T, N>(out + channel + v * N, p.relu ? rectified(sums[v]) : sums[v]);
      };
      int64_t channel = 0;
      for (; channel + kVectors * kWidest <= p.channels; channel += kVectors * kWidest) {
        unpool_channels.template operator()<kWidest, kVectors>(channel);
      }
      for_each_vector<kWidest>(channel, p.channels, [&](auto lanes, int64_t at) {
        unpool_channels.template operator()<decltype(lanes)::value, 1>(at);
      });
      if (++phase == axis.stride) {
        phase = 0;
        ++window;
      }
    }
  }
  delete[] seen;
}

template <typename T, typename S, bool kLast>
void max_unpool2d_rows(bool channels_last, const MaxUnpool2dParams& p, int64_t begin, int64_t end) {
  const Axis& x = p.pooling.x;
  if (channels_last) return unpool_rows_channels_last<T, S, kLast>(p, begin, end);
  if (x.stride == 2 && x.dilation == 1 && x.kernel == 2) return unpool_rows<T, S, kLast, 2, 2>(p, begin, end);
  if (x.stride == 2 && x.dilation == 1 && x.kernel == 3) return unpool_rows<T, S, kLast, 2, 3>(p, begin, end);
  if (x.stride == 1) return unpool_rows<T, S, kLast, 1, 0>(p, begin, end);
  if (x.stride == 2) return unpool_rows<T, S, kLast, 2, 0>(p, begin, end);
  return unpool_rows<T, S, kLast, 0, 0>(p, begin, end);
}

template <typename T>
void max_unpool2d_rows(bool channels_last, const MaxUnpool2dParams& p, int64_t begin, int64_t end) {
  if (p.wide_switches) {
    return p.last ? max_unpool2d_rows<T, int16_t, true>(channels_last, p, begin, end)
                  : max_unpool2d_rows<T, int16_t, false>(channels_last, p, begin, end);
  }
  return p.last ? max_unpool2d_rows<T, uint8_t, true>(channels_last, p, begin, end)
                : max_unpool2d_rows<T, uint8_t, false>(channels_last, p, begin, end);
}

}  // namespace deconv_kernels::DECONV_CPU_CAPABILITY

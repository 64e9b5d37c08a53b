// Rows of a switch-guided unpooling. Every output element is formed in row-major order of the windows that name it and
// is written to the result once, in one of two ways:
// - gathering: each output asks the windows that can see it whether their switch names it (channels_last, and wide rows
//   of 2x2 and 3x3 windows at stride 2);
// - scattering: each window adds its value to a band of rows held in cache, which is then copied out (everything else).
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
    sum += named ? as_loaded(values) : Vector<Compute<T>, N>{};
  }
}

// A row of windows (or with channels_last a single window) that sees the output at hand.
template <typename T, typename S>
struct Seen {
  const T* values;
  const S* switches;
  Code<T> code;  // of its first tap in question
};

// One channel of a unit (contiguous), or all its channels at once (channels_last), and the part of it inside the map.
template <typename T, typename S>
struct UnitMap {
  int64_t begin_z;
  int64_t end_z;
  int64_t begin_y;
  int64_t end_y;
  int64_t begin_x;
  int64_t end_x;
  const T* values;    // of element (0, 0)
  const S* switches;  // of element (0, 0), or where it would be outside the map

  // `channels` is the number of such maps a unit has, `pixel` the distance of neighbouring columns.
  UnitMap(const MaxUnpoolParams& p, int64_t unit, int64_t channel, int64_t channels, int64_t pixel) {
    const int64_t image = p.image == nullptr ? unit : p.image[unit];
    PerAxis origin{};
    if (p.origin != nullptr) {
      const int64_t* const of_unit = p.origin + unit * p.rank;
      origin = {p.rank == 3 ? of_unit[0] : 0, of_unit[p.rank - 2], of_unit[p.rank - 1]};
    }
    begin_x = inside(0, origin.x, p.size.x);
    end_x = inside(p.map.x, origin.x, p.size.x);
    begin_y = inside(0, origin.y, p.size.y);
    end_y = inside(p.map.y, origin.y, p.size.y);
    begin_z = inside(0, origin.z, p.size.z);
    end_z = inside(p.map.z, origin.z, p.size.z);
    values = static_cast<const T*>(p.input) + (unit * channels + channel) * p.size.z * p.size.y * p.size.x * pixel;
    switches = static_cast<const S*>(p.switches) + (image * channels + channel) * p.map.z * p.map.y * p.map.x * pixel;
    if (begin_x >= end_x || begin_y >= end_y || begin_z >= end_z) {
      end_z = begin_z;
    } else {
      switches += ((origin.z * p.map.y + origin.y) * p.map.x + origin.x) * pixel;
    }
  }

  bool holds(int64_t z, int64_t y) const { return z >= begin_z && z < end_z && y >= begin_y && y < end_y; }

  // Unit position of map position `edge`, held within the unit; safe for any origin.
  static int64_t inside(int64_t edge, int64_t origin, int64_t size) {
    if (origin >= edge) return 0;
    return origin <= edge - size ? size : edge - origin;
  }
};

// Where a walk along one axis of the output has come to.
struct PhaseWalk {
  const Axis& axis;
  const Phases& phases;
  int64_t phase;
  int64_t window;

  PhaseWalk(const Axis& of, const Phases& table, int64_t position)
      : axis(of),
        phases(table),
        phase((position + of.padding) % of.stride),
        window((position + of.padding) / of.stride) {}

  void next() {
    if (++phase < axis.stride) return;
    phase = 0;
    ++window;
  }
  void restart() {
    phase = axis.padding % axis.stride;
    window = axis.padding / axis.stride;
  }
  // The windows that see this position, in their order.
  const PhaseTap* begin() const { return phases.taps + (phase < phases.count ? phases.begin[phase] : 0); }
  const PhaseTap* end() const { return phases.taps + (phase < phases.count ? phases.begin[phase + 1] : 0); }
};

// Walks the output rows from `begin` on and finds for each the rows of windows that see it.
template <typename T, typename S>
class SeenRows {
 public:
  SeenRows(const MaxUnpoolParams& params, int64_t begin, int64_t channels, int64_t pixel)
      : p_(params),
        rows_(new Seen<T, S>[params.phases_z.most * params.phases_y.most]),
        channels_(channels),
        pixel_(pixel),
        y_(begin % params.unpooled.y),
        z_(begin / params.unpooled.y % params.unpooled.z),
        channel_(begin / params.unpooled.y / params.unpooled.z % channels),
        unit_(begin / params.unpooled.y / params.unpooled.z / channels),
        walk_y_(params.pooling.y, params.phases_y, y_),
        walk_z_(params.pooling.z, params.phases_z, z_),
        unit_map_(params, unit_, channel_, channels, pixel) {
    find();
  }
  ~SeenRows() { delete[] rows_; }
  SeenRows(const SeenRows&) = delete;
  SeenRows& operator=(const SeenRows&) = delete;

  void next() {
    walk_y_.next();
    if (++y_ == p_.unpooled.y) next_plane();
    find();
  }

  const Seen<T, S>* begin() const { return rows_; }
  const Seen<T, S>* end() const { return rows_ + count_; }

  // Columns of the rows that lie inside unit and map.
  int64_t begin_x() const { return unit_map_.begin_x; }
  int64_t end_x() const { return unit_map_.end_x; }

 private:
  void next_plane() {
    y_ = 0;
    walk_y_.restart();
    walk_z_.next();
    if (++z_ < p_.unpooled.z) return;
    z_ = 0;
    walk_z_.restart();
    if (++channel_ == channels_) {
      channel_ = 0;
      ++unit_;
    }
    // The last row of all has no next map to enter.
    if (unit_ < p_.units) unit_map_ = UnitMap<T, S>(p_, unit_, channel_, channels_, pixel_);
  }

  void find() {
    count_ = 0;
    for (const PhaseTap* of_z = walk_z_.begin(); of_z != walk_z_.end(); ++of_z) {
      const int64_t plane = walk_z_.window - of_z->back;
      for (const PhaseTap* of_y = walk_y_.begin(); of_y != walk_y_.end(); ++of_y) {
        const int64_t row = walk_y_.window - of_y->back;
        if (!unit_map_.holds(plane, row)) continue;
        rows_[count_++] = {unit_map_.values + (plane * p_.size.y + row) * p_.size.x * pixel_,
                           unit_map_.switches + (plane * p_.map.y + row) * p_.map.x * pixel_,
                           static_cast<Code<T>>((of_z->tap * p_.pooling.y.kernel + of_y->tap) * p_.pooling.x.kernel)};
      }
    }
  }

  const MaxUnpoolParams& p_;
  Seen<T, S>* rows_;
  int64_t channels_;
  int64_t pixel_;
  int64_t y_;
  int64_t z_;
  int64_t channel_;
  int64_t unit_;
  PhaseWalk walk_y_;
  PhaseWalk walk_z_;
  UnitMap<T, S> unit_map_;
  int64_t count_ = 0;
};

// The output of phase `phase` that window column `window` begins, one element.
template <typename T, typename S, bool kLast>
inline Compute<T> unpool_one(const MaxUnpoolParams& p, const SeenRows<T, S>& rows, int64_t phase, int64_t window) {
  Vector<Compute<T>, 1> sum{};
  if (phase < p.phases_x.count) {
    const PhaseTap* end = p.phases_x.taps + p.phases_x.begin[phase + 1];
    for (const auto& row : rows) {
      for (const PhaseTap* tap = p.phases_x.taps + p.phases_x.begin[phase]; tap != end; ++tap) {
        const int64_t column = window - tap->back;
        if (column < rows.begin_x() || column >= rows.end_x()) continue;
        take_named<T, 1, kLast>(sum, Vector<Compute<T>, 1>{load_one(row.values + column)},
                                Vector<Code<T>, 1>{row.switches[column]}, row.code + static_cast<Code<T>>(tap->tap));
      }
    }
  }
  return p.relu ? rectified(sum)[0] : sum[0];
}

// The outputs that N windows of 2 or 3 taps at stride 2 begin, two for each. The window before the first of the row is
// not looked at.
template <typename T, typename S, int N, bool kLast, int kKernel>
inline void unpool_pairs(const MaxUnpoolParams& p, const SeenRows<T, S>& rows, int64_t window, T* out) {
  using Values = Vector<Compute<T>, N>;
  using Codes = Vector<Code<T>, N>;
  constexpr auto kAll = std::make_integer_sequence<int, N>{};
  prefetch_ahead<2 * N, true>(out);
  Values even{};
  Values odd{};
  for (const auto& row : rows) {
    const Values values = load<T, N>(row.values + window);
    const Codes codes = load_codes<T, S, N>(row.switches + window);
    if constexpr (kKernel == 3) {
      if (window > rows.begin_x()) {
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
  if (p.relu) {
    even = rectified(even);
    odd = rectified(odd);
  }
  store_interleaved<T, N>(out, even, odd);
}

template <typename T, typename S, bool kLast, int kKernel>
void gather_rows(const MaxUnpoolParams& p, int64_t begin, int64_t end) {
  constexpr int64_t kStride = 2;
  const int64_t padding = p.pooling.x.padding;
  SeenRows<T, S> rows(p, begin, p.channels, 1);
  for (int64_t index = begin; index < end; ++index, rows.next()) {
    T* out = static_cast<T*>(p.output) + index * p.unpooled.x;
    const auto single = [&](int64_t from, int64_t to) {
      for (int64_t x = from; x < to; ++x) {
        store_one(out + x, unpool_one<T, S, kLast>(p, rows, (x + padding) % kStride, (x + padding) / kStride));
      }
    };
    // Window columns [inner_begin, inner_end) lie inside unit and map, and all the outputs they begin are of this row.
    const int64_t after_padding = ceil_divide(padding, kStride);
    const int64_t inner_begin = after_padding > rows.begin_x() ? after_padding : rows.begin_x();
    const int64_t whole = (p.unpooled.x + padding) / kStride;
    const int64_t inner_end = whole < rows.end_x() ? whole : rows.end_x();
    if (inner_begin >= inner_end) {
      single(0, p.unpooled.x);
      continue;
    }
    single(0, inner_begin * kStride - padding);
    for_each_vector<kLanes<T>>(inner_begin, inner_end, [&](auto lanes, int64_t window) {
      unpool_pairs<T, S, decltype(lanes)::value, kLast, kKernel>(p, rows, window, out + window * kStride - padding);
    });
    single(inner_end * kStride - padding, p.unpooled.x);
  }
}

// Where a row of the output lies.
struct RowPlace {
  int64_t unit;
  int64_t channel;
  int64_t z;
  int64_t y;

  RowPlace(const MaxUnpoolParams& p, int64_t row)
      : unit(row / p.unpooled.y / p.unpooled.z / p.channels),
        channel(row / p.unpooled.y / p.unpooled.z % p.channels),
        z(row / p.unpooled.y % p.unpooled.z),
        y(row % p.unpooled.y) {}

  void next_plane(const MaxUnpoolParams& p) {
    y = 0;
    if (++z < p.unpooled.z) return;
    z = 0;
    if (++channel < p.channels) return;
    channel = 0;
    ++unit;
  }
};

// 2x2 windows at stride 2 without padding: a row of windows fills two output rows, and each window is loaded once for
// each of its planes.
template <typename T, typename S, bool kLast, bool kStreamed>
void gather_pairs_of_rows(const MaxUnpoolParams& p, int64_t begin, int64_t end) {
  // What a range that begins or ends between two rows of one pair computes beside its own row.
  T* const spare = new T[p.unpooled.x];
  T* const output = static_cast<T*>(p.output);
  StreamedRows<T> streamed(output + begin * p.unpooled.x, kStreamed ? 2 * p.unpooled.x : 0);
  const int64_t depth = p.pooling.z.kernel;
  RowPlace place(p, begin);
  UnitMap<T, S> map(p, place.unit, place.channel, p.channels, 1);
  for (int64_t row = begin; row < end;) {
    T* const out = kStreamed ? streamed.next() : output + row * p.unpooled.x;
    const bool has_upper = place.y % 2 == 0;
    const bool has_lower = !has_upper || (place.y + 1 < p.unpooled.y && row + 1 < end);
    T* const upper = has_upper ? out : spare;
    T* const lower = has_lower ? (has_upper ? out + p.unpooled.x : out) : spare;

    const int64_t window_plane = place.z / depth;
    const int64_t window_row = place.y / 2;
    const bool seen = map.holds(window_plane, window_row);
    const T* const values = map.values + (window_plane * p.size.y + window_row) * p.size.x;
    const S* const switches = map.switches + (window_plane * p.map.y + window_row) * p.map.x;
    const int64_t first_code = place.z % depth * 4;
    const auto single = [&](int64_t from, int64_t to) {
      for (int64_t x = from; x < to; ++x) {
        const int64_t window = x / 2;
        const bool inside = seen && window >= map.begin_x && window < map.end_x;
        const Compute<T> taken = inside ? load_one(values + window) : Compute<T>{};
        const Compute<T> sum = kLast ? taken : Compute<T>{} + taken;
        const Compute<T> value = p.relu && sum < 0 ? Compute<T>{} : sum;
        const int64_t code = inside ? switches[window] - first_code : -1;
        store_one(upper + x, code == x % 2 ? value : Compute<T>{});
        store_one(lower + x, code == 2 + x % 2 ? value : Compute<T>{});
      }
    };
    const int64_t whole = p.unpooled.x / 2;
    const int64_t inner_begin = seen && map.begin_x < whole ? map.begin_x : whole;
    const int64_t inner_end = seen && map.end_x < whole ? map.end_x : whole;
    single(0, 2 * inner_begin);
    for_each_vector<kLanes<T>>(inner_begin, inner_end, [&](auto lanes, int64_t window) {
      constexpr int N = decltype(lanes)::value;
      using Values = Vector<Compute<T>, N>;
      if constexpr (!kStreamed) prefetch_ahead<2 * N, true>(upper + 2 * window);
      Values value = load<T, N>(values + window);
      // A sum that begins at +0 makes +0 of -0.
      if constexpr (!kLast) value += Values{};
      if (p.relu) value = rectified(value);
      const auto codes = load_codes<T, S, N>(switches + window) - static_cast<Code<T>>(first_code);
      const auto named = [&](Code<T> code) { return codes == code ? value : Values{}; };
      store_interleaved<T, N>(upper + 2 * window, named(0), named(1));
      store_interleaved<T, N>(lower + 2 * window, named(2), named(3));
    });
    single(2 * inner_end, p.unpooled.x);

    const int64_t rows = has_upper && has_lower ? 2 : 1;
    if constexpr (kStreamed) streamed.write(rows * p.unpooled.x);
    row += rows;
    place.y += rows;
    if (place.y < p.unpooled.y || row >= end) continue;
    place.next_plane(p);
    if (place.z == 0) map = UnitMap<T, S>(p, place.unit, place.channel, p.channels, 1);
  }
  if constexpr (kStreamed) streamed.finish();
  delete[] spare;
}

// Rows of one plane of the output in cache, with room for everything that the windows reaching into them can name.
template <typename T, typename S, bool kLast>
class Band {
 public:
  explicit Band(const MaxUnpoolParams& params)
      : p_(params),
        width_((params.size.x - 1) * params.pooling.x.stride + extent(params.pooling.x)),
        height_(kElements / width_ + 1),
        size_(smaller(height_ + 2 * extent(params.pooling.y),
                      (params.size.y - 1) * params.pooling.y.stride + extent(params.pooling.y)) *
              width_),
        sums_(new Compute<T>[2 * size_]),
        offsets_(new int64_t[kCodes]),
        values_(new Compute<T>[params.size.x]) {
    const Pooling& pooling = p_.pooling;
    // A switch that names no tap of a plane of the window, counted from its first one, leads to the second half of the
    // sums, which nobody reads.
    for (int64_t code = 0; code < kCodes; ++code) offsets_[code] = size_;
    for (int64_t y = 0; y < pooling.y.kernel; ++y) {
      for (int64_t x = 0; x < pooling.x.kernel; ++x) {
        offsets_[y * pooling.x.kernel + x] = y * pooling.y.dilation * width_ + x * pooling.x.dilation;
      }
    }
  }
  ~Band() {
    delete[] sums_;
    delete[] offsets_;
    delete[] values_;
  }
  Band(const Band&) = delete;
  Band& operator=(const Band&) = delete;

  // The most output rows it takes at a time.
  int64_t height() const { return height_; }

  // Writes the output rows [begin, end) of the plane that `planes` of windows see, whose first row is `out`.
  void unpool(const UnitMap<T, S>& map, const PhaseWalk& planes, int64_t begin, int64_t end, T* out) {
    const Axis& axis = p_.pooling.y;
    int64_t first = map.begin_y;
    int64_t last = map.end_y;
    if (end - begin < p_.unpooled.y) {
      first = larger(first, first_window(begin, axis));
      last = smaller(last, end_window(end - 1, p_.size.y, axis));
    }
    const int64_t top = window_start(first, axis);
    const int64_t rows = first < last ? (last - 1 - first) * axis.stride + extent(axis) : 0;
    for (int64_t at = 0; at < rows * width_; ++at) sums_[at] = 0;
    for (const PhaseTap* tap = planes.begin(); tap != planes.end(); ++tap) {
      const int64_t plane = planes.window - tap->back;
      if (plane < map.begin_z || plane >= map.end_z) continue;
      for (int64_t window = first; window < last; ++window) {
        scatter(map, plane, tap->tap, window, sums_ + (window - first) * axis.stride * width_);
      }
    }
    const int64_t padding = p_.pooling.x.padding;
    if (top == begin && rows == end - begin && padding == 0 && width_ == p_.unpooled.x) {
      return copy(sums_, rows * width_, out + begin * width_);
    }
    const int64_t reached = larger(0, smaller(p_.unpooled.x, width_ - padding));
    for (int64_t y = begin; y < end; ++y) {
      T* to = out + y * p_.unpooled.x;
      const int64_t columns = y >= top && y < top + rows ? reached : 0;
      copy(sums_ + (y - top) * width_ + padding, columns, to);
      for (int64_t x = columns; x < p_.unpooled.x; ++x) store_one(to + x, Compute<T>{});
    }
  }

 private:
  static constexpr int64_t kElements = 8192;
  static constexpr int64_t kCodes = int64_t{1} << (8 * sizeof(S));

  static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
  static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

  // Adds the values of a row of windows whose switches name the plane `tap` of their windows.
  void scatter(const UnitMap<T, S>& map, int64_t plane, int64_t tap, int64_t window_row, Compute<T>* sums) {
    const S* switches = map.switches + (plane * p_.map.y + window_row) * p_.map.x;
    const T* row = map.values + (plane * p_.size.y + window_row) * p_.size.x;
    const auto first_code = static_cast<S>(tap * p_.pooling.y.kernel * p_.pooling.x.kernel);
    const Compute<T>* values = nullptr;
    if constexpr (std::is_same_v<T, Compute<T>>) {
      values = row;
    } else {
      for_each_vector<kLanes<T>>(map.begin_x, map.end_x, [&](auto lanes, int64_t x) {
        constexpr int N = decltype(lanes)::value;
        store_unaligned(values_ + x, load<T, N>(row + x));
      });
      values = values_;
    }
    const int64_t stride = p_.pooling.x.stride;
    const int64_t* const offsets = offsets_;
    Compute<T>* window = sums + map.begin_x * stride;
    for (int64_t x = map.begin_x; x < map.end_x; ++x, window += stride) {
      Compute<T>& sum = window[offsets[static_cast<std::make_unsigned_t<S>>(switches[x] - first_code)]];
      sum = kLast ? values[x] : sum + values[x];
    }
  }

  void copy(const Compute<T>* sums, int64_t count, T* to) const {
    for_each_vector<kLanes<T>>(0, count, [&](auto lanes, int64_t at) {
      constexpr int N = decltype(lanes)::value;
      const auto values = load_unaligned<Vector<Compute<T>, N>>(sums + at);
      store<T, N>(to + at, p_.relu ? rectified(values) : values);
    });
  }

  const MaxUnpoolParams& p_;
  int64_t width_;
  int64_t height_;
  int64_t size_;
  Compute<T>* sums_;
  int64_t* offsets_;  // of each switch from the first element of its window
  Compute<T>* values_;
};

template <typename T, typename S, bool kLast>
void scatter_rows(const MaxUnpoolParams& p, int64_t begin, int64_t end) {
  Band<T, S, kLast> band(p);
  RowPlace place(p, begin);
  PhaseWalk planes(p.pooling.z, p.phases_z, place.z);
  for (int64_t row = begin; row < end;) {
    const UnitMap<T, S> map(p, place.unit, place.channel, p.channels, 1);
    int64_t rows = p.unpooled.y - place.y;
    if (rows > end - row) rows = end - row;
    if (rows > band.height()) rows = band.height();
    band.unpool(map, planes, place.y, place.y + rows, static_cast<T*>(p.output) + (row - place.y) * p.unpooled.x);
    row += rows;
    place.y += rows;
    if (place.y < p.unpooled.y) continue;
    place.next_plane(p);
    if (place.z > 0) {
      planes.next();
    } else {
      planes.restart();
    }
  }
}

template <typename T, typename S, bool kLast, bool kStreamed>
void gather_rows_channels_last(const MaxUnpoolParams& p, int64_t begin, int64_t end) {
  constexpr int kVectors = 4;
  constexpr int kWidest = kLanes<T>;
  const Axis& axis = p.pooling.x;
  SeenRows<T, S> rows(p, begin, 1, p.channels);
  auto* const seen = new Seen<T, S>[p.phases_z.most * p.phases_y.most * p.phases_x.most];
  for (int64_t index = begin; index < end; ++index, rows.next()) {
    T* out = static_cast<T*>(p.output) + index * p.unpooled.x * p.channels;
    int64_t phase = axis.padding % axis.stride;
    int64_t window = axis.padding / axis.stride;
    for (int64_t x = 0; x < p.unpooled.x; ++x, out += p.channels) {
      int64_t count = 0;
      if (phase < p.phases_x.count) {
        const PhaseTap* taps_end = p.phases_x.taps + p.phases_x.begin[phase + 1];
        for (const auto& row : rows) {
          for (const PhaseTap* tap = p.phases_x.taps + p.phases_x.begin[phase]; tap != taps_end; ++tap) {
            const int64_t column = window - tap->back;
            if (column < rows.begin_x() || column >= rows.end_x()) continue;
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
        for (int v = 0; v < kCount; ++v) {
          const Vector<Compute<T>, N> sum = p.relu ? rectified(sums[v]) : sums[v];
          if constexpr (kStreamed) {
            stream<T, N>(out + channel + v * N, sum);
          } else {
            store<T, N>(out + channel + v * N, sum);
          }
        }
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
void max_unpool_rows(bool channels_last, const MaxUnpoolParams& p, int64_t begin, int64_t end) {
  const Axis& x = p.pooling.x;
  if (channels_last) {
    return p.streamed ? gather_rows_channels_last<T, S, kLast, true>(p, begin, end)
                      : gather_rows_channels_last<T, S, kLast, false>(p, begin, end);
  }
  // Windows that need two bytes are large, so these shapes have one-byte switches.
  if constexpr (sizeof(S) == 1) {
    const bool pairs = x.stride == 2 && x.dilation == 1;
    const Axis& y = p.pooling.y;
    const Axis& z = p.pooling.z;
    const auto side_by_side = [](const Axis& axis) {
      return axis.kernel == axis.stride && axis.padding == 0 && axis.dilation == 1;
    };
    const bool quads = pairs && x.kernel == 2 && y.kernel == 2 && side_by_side(x) && side_by_side(y) && side_by_side(z);
    if (quads && p.size.x >= kLanes<T> / 2) {
      return p.streamed ? gather_pairs_of_rows<T, S, kLast, true>(p, begin, end)
                        : gather_pairs_of_rows<T, S, kLast, false>(p, begin, end);
    }
    if (pairs && x.kernel == 2 && p.size.x >= kLanes<T>) return gather_rows<T, S, kLast, 2>(p, begin, end);
    if (pairs && x.kernel == 3 && p.size.x >= 2 * kLanes<T>) return gather_rows<T, S, kLast, 3>(p, begin, end);
  }
  return scatter_rows<T, S, kLast>(p, begin, end);
}

template <typename T>
void max_unpool_rows(bool channels_last, const MaxUnpoolParams& p, int64_t begin, int64_t end) {
  if (p.wide_switches) {
    p.last ? max_unpool_rows<T, int16_t, true>(channels_last, p, begin, end)
           : max_unpool_rows<T, int16_t, false>(channels_last, p, begin, end);
  } else {
    p.last ? max_unpool_rows<T, uint8_t, true>(channels_last, p, begin, end)
           : max_unpool_rows<T, uint8_t, false>(channels_last, p, begin, end);
  }
  if (p.streamed) finish_streams();
}

}  // namespace deconv_kernels::DECONV_CPU_CAPABILITY

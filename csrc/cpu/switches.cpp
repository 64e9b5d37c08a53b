#include "../geometry/switches.h"

#include <algorithm>
#include <atomic>
#include <type_traits>
#include <vector>

#include "launch.h"

namespace deconv_kernels {

namespace {

// Calls convert(first, count, pooled, step) for runs of elements of one row of windows, from element
// `first` on: `count` windows side by side from the one at `pooled` on (step 1), or channels of that window (step 0).
// It returns whether all had a meaning.
template <typename Convert>
bool convert_all(const MapShape& pooled, const Convert& convert) {
  const int64_t inner = pooled.channels_innermost() ? pooled.channels : 1;
  std::atomic<bool> meaningful{true};
  parallel_rows(pooled.rows(), pooled.row(), [&](int64_t begin, int64_t end) {
    bool all = true;
    for (int64_t row = begin; row < end; ++row) {
      const int64_t first = row * pooled.row();
      const PerAxis place{row / pooled.height % pooled.depth, row % pooled.height, 0};
      if (!pooled.channels_innermost()) {
        all &= convert(first, pooled.width, place, int64_t{1});
        continue;
      }
      for (int64_t x = 0; x < pooled.width; ++x) {
        all &= convert(first + x * inner, inner, PerAxis{place.z, place.y, x}, int64_t{0});
      }
    }
    if (!all) meaningful.store(false, std::memory_order_relaxed);
  });
  return meaningful.load();
}

// Windows [begin, end) of a row lie inside the map as a whole; none if the row does not.
struct Inside {
  int64_t begin;
  int64_t end;

  Inside(const PerAxis& row, const MapShape& pooled, const MapShape& map, const Pooling& pooling) : begin(0), end(0) {
    if (!fits(row.z, map.depth, pooling.z) || !fits(row.y, map.height, pooling.y)) return;
    const int64_t room = map.width + pooling.x.padding - extent(pooling.x);
    begin = ceil_divide(pooling.x.padding, pooling.x.stride);
    end = std::min(pooled.width, floor_divide(room, pooling.x.stride) + 1);
  }

  bool holds(int64_t x) const { return x >= begin && x < end; }

 private:
  static bool fits(int64_t pooled, int64_t size, const Axis& axis) {
    const int64_t start = window_start(pooled, axis);
    return start >= 0 && start + extent(axis) <= size;
  }
};

// How far from the first position of its window each switch leads, -1 for those that name none, and the way back.
template <typename Switch>
class Offsets {
 public:
  Offsets(const MapShape& map, const Pooling& pooling) : offsets_(kCodes, -1) {
    const int64_t last =
        ((extent(pooling.z) - 1) * map.height + extent(pooling.y) - 1) * map.width + extent(pooling.x) - 1;
    if (last < kLargestTable) switches_.assign(static_cast<size_t>(last) + 1, -1);
    const Axis &z = pooling.z, &y = pooling.y, &x = pooling.x;
    for (int64_t code = 0; code < pooling.taps(); ++code) {
      const int64_t row = code / x.kernel;
      const int64_t offset = (row / y.kernel * z.dilation * map.height + row % y.kernel * y.dilation) * map.width +
                             code % x.kernel * x.dilation;
      offsets_[static_cast<size_t>(code)] = offset;
      if (!switches_.empty()) switches_[static_cast<size_t>(offset)] = static_cast<int32_t>(code);
    }
  }

  // Whether the way back is a table too; for enormous windows it would be too large.
  bool has_switches() const { return !switches_.empty(); }

  int64_t of_switch(Switch code) const { return offsets_[static_cast<std::make_unsigned_t<Switch>>(code)]; }

  // `index` may be any number.
  int64_t to_switch(int64_t index, int64_t window) const {
    const uint64_t offset = static_cast<uint64_t>(index) - static_cast<uint64_t>(window);
    return offset < switches_.size() ? switches_[static_cast<size_t>(offset)] : -1;
  }

 private:
  static constexpr size_t kCodes = size_t{1} << (8 * sizeof(Switch));
  static constexpr int64_t kLargestTable = 65536;

  std::vector<int64_t> offsets_;
  std::vector<int32_t> switches_;
};

template <typename Switch>
bool to_indices(const Tensor& from, Tensor& to, const MapShape& pooled, const MapShape& map, const Pooling& pooling) {
  const auto* switches = static_cast<const Switch*>(from.const_data_ptr());
  auto* indices = static_cast<int64_t*>(to.mutable_data_ptr());
  const Offsets<Switch> offsets(map, pooling);
  return convert_all(pooled, [&](int64_t first, int64_t count, PerAxis window, int64_t step) {
    const Inside inside(window, pooled, map, pooling);
    const int64_t row =
        (window_start(window.z, pooling.z) * map.height + window_start(window.y, pooling.y)) * map.width;
    int64_t lowest = 0;
    for (int64_t at = first; at < first + count; ++at, window.x += step) {
      if (inside.holds(window.x)) {
        const int64_t offset = offsets.of_switch(switches[at]);
        indices[at] = row + window_start(window.x, pooling.x) + offset;
        lowest |= offset;
      } else {
        indices[at] = index_of_switch(switches[at], window, map.size(), pooling);
        lowest |= indices[at];
      }
    }
    return lowest >= 0;
  });
}

template <typename Switch>
bool to_switches(const Tensor& from, Tensor& to, const MapShape& pooled, const MapShape& map, const Pooling& pooling) {
  const auto* indices = static_cast<const int64_t*>(from.const_data_ptr());
  auto* switches = static_cast<Switch*>(to.mutable_data_ptr());
  const Offsets<Switch> offsets(map, pooling);
  return convert_all(pooled, [&](int64_t first, int64_t count, PerAxis window, int64_t step) {
    const Inside inside(window, pooled, map, pooling);
    const int64_t row =
        (window_start(window.z, pooling.z) * map.height + window_start(window.y, pooling.y)) * map.width;
    int64_t lowest = 0;
    for (int64_t at = first; at < first + count; ++at, window.x += step) {
      const int64_t code = offsets.has_switches() && inside.holds(window.x)
                               ? offsets.to_switch(indices[at], row + window_start(window.x, pooling.x))
                               : switch_of_index(indices[at], window, map.size(), pooling);
      switches[at] = static_cast<Switch>(code);
      lowest |= code;
    }
    return lowest >= 0;
  });
}

MapShape kernel_of(const Pooling& pooling, const MapShape& map) {
  return map.resized({pooling.z.kernel, pooling.y.kernel, pooling.x.kernel});
}

Tensor switches_to_indices(const SwitchesCall& call) {
  const Pooling& pooling = call.pooling;
  const MapShape& map = call.map;
  const Tensor from = dense(call.from, call.pooled);
  Tensor to = result_map(call.pooled, ScalarType::Long, call.from);
  const bool meaningful = switch_dtype(pooling) == ScalarType::Byte
                              ? to_indices<uint8_t>(from, to, call.pooled, map, pooling)
                              : to_indices<int16_t>(from, to, call.pooled, map, pooling);
  DK_CHECK(meaningful, "switches holds a value that names no position of a ", text(kernel_of(pooling, map)),
           " window inside the ", text(map), " map");
  return to;
}

Tensor indices_to_switches(const SwitchesCall& call) {
  const Pooling& pooling = call.pooling;
  const MapShape& map = call.map;
  const Tensor from = dense(call.from, call.pooled);
  Tensor to = result_map(call.pooled, switch_dtype(pooling), call.from);
  const bool meaningful = switch_dtype(pooling) == ScalarType::Byte
                              ? to_switches<uint8_t>(from, to, call.pooled, map, pooling)
                              : to_switches<int16_t>(from, to, call.pooled, map, pooling);
  DK_CHECK(meaningful, "indices holds a position of the ", text(map), " map that its ", text(kernel_of(pooling, map)),
           " window does not cover");
  return to;
}

STABLE_TORCH_LIBRARY_IMPL(deconv_kernels, CPU, m) {
  m.impl("switches_to_indices", TORCH_BOX((&Checked<check_switches_to_indices, switches_to_indices>::kernel)));
  m.impl("indices_to_switches", TORCH_BOX((&Checked<check_indices_to_switches, indices_to_switches>::kernel)));
}

}  // namespace

}  // namespace deconv_kernels

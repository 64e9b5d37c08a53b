#include "../geometry/switches.h"

#include <algorithm>
#include <atomic>
#include <type_traits>
#include <vector>

#include "launch.h"

namespace deconv_kernels {

namespace {

// Calls convert(first, count, pooled_y, pooled_x, step) for runs of elements of one row of windows, from element
// `first` on: `count` windows side by side (step 1), or channels of one window (step 0). It returns whether all had a
// meaning.
template <typename Convert>
bool convert_all(const MapShape& pooled, const Convert& convert) {
  const int64_t inner = pooled.channels_innermost() ? pooled.channels : 1;
  std::atomic<bool> meaningful{true};
  parallel_rows(pooled.rows(), pooled.row(), [&](int64_t begin, int64_t end) {
    bool all = true;
    for (int64_t row = begin; row < end; ++row) {
      const int64_t first = row * pooled.row();
      const int64_t y = row % pooled.height;
      if (!pooled.channels_innermost()) {
        all &= convert(first, pooled.width, y, int64_t{0}, int64_t{1});
        continue;
      }
      for (int64_t x = 0; x < pooled.width; ++x) all &= convert(first + x * inner, inner, y, x, int64_t{0});
    }
    if (!all) meaningful.store(false, std::memory_order_relaxed);
  });
  return meaningful.load();
}

// Windows [begin, end) of a row lie inside the map as a whole; none if the row does not.
struct Inside {
  int64_t begin;
  int64_t end;

  Inside(int64_t pooled_y, const MapShape& pooled, const MapShape& map, const Pooling& pooling) : begin(0), end(0) {
    const int64_t top = window_start(pooled_y, pooling.y);
    if (top < 0 || top + extent(pooling.y) > map.height) return;
    const int64_t room = map.width + pooling.x.padding - extent(pooling.x);
    begin = ceil_divide(pooling.x.padding, pooling.x.stride);
    end = std::min(pooled.width, floor_divide(room, pooling.x.stride) + 1);
  }

  bool holds(int64_t x) const { return x >= begin && x < end; }
};

// How far from the first position of its window each switch leads, -1 for those that name none, and the way back.
template <typename Switch>
class Offsets {
 public:
  Offsets(const MapShape& map, const Pooling& pooling) : offsets_(kCodes, -1) {
    const int64_t last = (extent(pooling.y) - 1) * map.width + extent(pooling.x) - 1;
    if (last < kLargestTable) switches_.assign(static_cast<size_t>(last) + 1, -1);
    for (int64_t y = 0; y < pooling.y.kernel; ++y) {
      for (int64_t x = 0; x < pooling.x.kernel; ++x) {
        const int64_t code = y * pooling.x.kernel + x;
        const int64_t offset = y * pooling.y.dilation * map.width + x * pooling.x.dilation;
        offsets_[static_cast<size_t>(code)] = offset;
        if (!switches_.empty()) switches_[static_cast<size_t>(offset)] = static_cast<int32_t>(code);
      }
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
  return convert_all(pooled, [&](int64_t first, int64_t count, int64_t y, int64_t x, int64_t step) {
    const Inside inside(y, pooled, map, pooling);
    const int64_t row = window_start(y, pooling.y) * map.width;
    int64_t lowest = 0;
    for (int64_t at = first; at < first + count; ++at, x += step) {
      if (inside.holds(x)) {
        const int64_t offset = offsets.of_switch(switches[at]);
        indices[at] = row + window_start(x, pooling.x) + offset;
        lowest |= offset;
      } else {
        indices[at] = index_of_switch(switches[at], y, x, map.height, map.width, pooling);
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
  return convert_all(pooled, [&](int64_t first, int64_t count, int64_t y, int64_t x, int64_t step) {
    const Inside inside(y, pooled, map, pooling);
    const int64_t row = window_start(y, pooling.y) * map.width;
    int64_t lowest = 0;
    for (int64_t at = first; at < first + count; ++at, x += step) {
      const int64_t code = offsets.has_switches() && inside.holds(x)
                               ? offsets.to_switch(indices[at], row + window_start(x, pooling.x))
                               : switch_of_index(indices[at], y, x, map.height, map.width, pooling);
      switches[at] = static_cast<Switch>(code);
      lowest |= code;
    }
    return lowest >= 0;
  });
}

Tensor switches_to_indices(const SwitchesCall& call) {
  const Pooling& pooling = call.pooling;
  const MapShape& map = call.map;
  const Tensor from = dense(call.from, call.pooled);
  Tensor to = result_map(call.pooled, ScalarType::Long, call.from);
  const bool meaningful = switch_dtype(pooling) == ScalarType::Byte
                              ? to_indices<uint8_t>(from, to, call.pooled, map, pooling)
                              : to_indices<int16_t>(from, to, call.pooled, map, pooling);
  DK_CHECK(meaningful, "switches holds a value that names no position of a (", pooling.y.kernel, ", ", pooling.x.kernel,
           ") window inside the (", map.height, ", ", map.width, ") map");
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
  DK_CHECK(meaningful, "indices holds a position of the (", map.height, ", ", map.width, ") map that its (",
           pooling.y.kernel, ", ", pooling.x.kernel, ") window does not cover");
  return to;
}

STABLE_TORCH_LIBRARY_IMPL(deconv_kernels, CPU, m) {
  m.impl("switches_to_indices", TORCH_BOX((&Checked<check_switches_to_indices, switches_to_indices>::kernel)));
  m.impl("indices_to_switches", TORCH_BOX((&Checked<check_indices_to_switches, indices_to_switches>::kernel)));
}

}  // namespace

}  // namespace deconv_kernels

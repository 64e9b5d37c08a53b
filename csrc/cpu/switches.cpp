#include "../kernels/switches.h"

#include <atomic>

#include "launch.h"

namespace deconv_kernels {

namespace {

// Calls convert(element, pooled_y, pooled_x) for every element; it returns false for a value that means nothing.
template <typename Convert>
bool convert_all(const MapShape& pooled, const Convert& convert) {
  const int64_t inner = pooled.channels_last ? pooled.channels : 1;
  const int64_t rows = pooled.numel() / (pooled.width * inner);
  std::atomic<bool> meaningful{true};
  parallel_rows(rows, pooled.width * inner, [&](int64_t begin, int64_t end) {
    bool all = true;
    for (int64_t row = begin; row < end; ++row) {
      int64_t element = row * pooled.width * inner;
      for (int64_t x = 0; x < pooled.width; ++x) {
        for (int64_t channel = 0; channel < inner; ++channel) all &= convert(element++, row % pooled.height, x);
      }
    }
    if (!all) meaningful.store(false, std::memory_order_relaxed);
  });
  return meaningful.load();
}

template <typename Switch>
bool to_indices(const Tensor& from, Tensor& to, const MapShape& pooled, const MapShape& map, const Pooling& pooling) {
  const auto* switches = static_cast<const Switch*>(from.const_data_ptr());
  auto* indices = static_cast<int64_t*>(to.mutable_data_ptr());
  return convert_all(pooled, [&](int64_t at, int64_t y, int64_t x) {
    indices[at] = index_of_switch(switches[at], y, x, map.height, map.width, pooling);
    return indices[at] >= 0;
  });
}

template <typename Switch>
bool to_switches(const Tensor& from, Tensor& to, const MapShape& pooled, const MapShape& map, const Pooling& pooling) {
  const auto* indices = static_cast<const int64_t*>(from.const_data_ptr());
  auto* switches = static_cast<Switch*>(to.mutable_data_ptr());
  return convert_all(pooled, [&](int64_t at, int64_t y, int64_t x) {
    const int64_t code = switch_of_index(indices[at], y, x, map.height, map.width, pooling);
    switches[at] = static_cast<Switch>(code);
    return code >= 0;
  });
}

Tensor switches_to_indices(const Tensor& switches, const IntList& input_size, const IntList& kernel_size,
                           const IntList& stride, const IntList& padding, const IntList& dilation) {
  const Pooling pooling = make_pooling(kernel_size, stride, padding, dilation);
  const MapShape pooled = map_shape("switches", switches);
  check_dtype("switches", switches, switch_dtype(pooling));
  const MapShape map = checked_unpooled("input_size", input_size, pooled, pooling);
  const Tensor from = dense(switches, pooled);
  Tensor to = result_map(pooled, ScalarType::Long, switches);
  const bool meaningful = switch_dtype(pooling) == ScalarType::Byte
                              ? to_indices<uint8_t>(from, to, pooled, map, pooling)
                              : to_indices<int16_t>(from, to, pooled, map, pooling);
  DK_CHECK(meaningful, "switches holds a value that names no position of a (", pooling.y.kernel, ", ", pooling.x.kernel,
           ") window inside the (", map.height, ", ", map.width, ") map");
  return to;
}

Tensor indices_to_switches(const Tensor& indices, const IntList& input_size, const IntList& kernel_size,
                           const IntList& stride, const IntList& padding, const IntList& dilation) {
  const Pooling pooling = make_pooling(kernel_size, stride, padding, dilation);
  const MapShape pooled = map_shape("indices", indices);
  check_dtype("indices", indices, ScalarType::Long);
  const MapShape map = checked_unpooled("input_size", input_size, pooled, pooling);
  const Tensor from = dense(indices, pooled);
  Tensor to = result_map(pooled, switch_dtype(pooling), indices);
  const bool meaningful = switch_dtype(pooling) == ScalarType::Byte
                              ? to_switches<uint8_t>(from, to, pooled, map, pooling)
                              : to_switches<int16_t>(from, to, pooled, map, pooling);
  DK_CHECK(meaningful, "indices holds a position of the (", map.height, ", ", map.width, ") map that its (",
           pooling.y.kernel, ", ", pooling.x.kernel, ") window does not cover");
  return to;
}

}  // namespace

}  // namespace deconv_kernels

STABLE_TORCH_LIBRARY_IMPL(deconv_kernels, CPU, m) {
  m.impl("switches_to_indices", TORCH_BOX(&deconv_kernels::switches_to_indices));
  m.impl("indices_to_switches", TORCH_BOX(&deconv_kernels::indices_to_switches));
}

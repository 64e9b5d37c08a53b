// Switches as flat indices of the input map, and back. A thread converts four neighbours in memory.
#pragma once

#include "device.cuh"
#include "geometry/pooling.h"
#include "windows.cuh"

namespace deconv_kernels::cuda {

template <typename SwitchType>
struct Switches {
  using Switch = SwitchType;

  const Switch*
      switches_in;  // [images][pooled_depth][pooled_height][pooled_width][channels]; switches_to_indices reads these
  const int64_t* indices_in;  // and indices_to_switches these
  Switch* switches_out;
  int64_t* indices_out;
  int64_t count;
  bool wide;     // whether both tensors are aligned for kSwitchesPerThread elements at once
  PerAxis size;  // of the maps
  WindowAxis z;
  WindowAxis y;
  WindowAxis x;
  Divider by_pooled_height;
  Divider by_height;
  Divider by_width;
  Divider by_kernel_y;
  Divider by_kernel_x;
  Items items;
};

constexpr int kSwitchesPerThread = 4;

template <typename Switch>
__device__ __forceinline__ int64_t index_of(const Switches<Switch>& parameters, int code, const Item& window) {
  if (code < 0 || code >= parameters.z.kernel * parameters.y.kernel * parameters.x.kernel) return 0;
  int64_t pooled_y, tap_y, tap_x;
  const int64_t pooled_z = parameters.by_pooled_height.divide(window.row, &pooled_y);
  const int64_t tap_z = parameters.by_kernel_y.divide(parameters.by_kernel_x.divide(code, &tap_x), &tap_y);
  const int64_t z = parameters.z.start(pooled_z) + tap_z * parameters.z.dilation;
  const int64_t y = parameters.y.start(pooled_y) + tap_y * parameters.y.dilation;
  const int64_t x = parameters.x.start(window.column) + tap_x * parameters.x.dilation;
  const PerAxis& size = parameters.size;
  const bool inside = z >= 0 && z < size.z && y >= 0 && y < size.y && x >= 0 && x < size.x;
  return inside ? (z * size.y + y) * size.x + x : 0;
}

template <typename Switch>
__device__ __forceinline__ Switch switch_of(const Switches<Switch>& parameters, int64_t index, const Item& window) {
  constexpr Switch kNone = static_cast<Switch>(-1);
  if (index < 0 || index >= parameters.size.z * parameters.size.y * parameters.size.x) return kNone;
  int64_t pooled_y, y, x;
  const int64_t pooled_z = parameters.by_pooled_height.divide(window.row, &pooled_y);
  const int64_t z = parameters.by_height.divide(parameters.by_width.divide(index, &x), &y);
  const int64_t tap_z = parameters.z.tap_at(z, pooled_z);
  const int64_t tap_y = parameters.y.tap_at(y, pooled_y);
  const int64_t tap_x = parameters.x.tap_at(x, window.column);
  if (tap_z < 0 || tap_y < 0 || tap_x < 0) return kNone;
  return static_cast<Switch>((tap_z * parameters.y.kernel + tap_y) * parameters.x.kernel + tap_x);
}

// The window after this one in memory.
__device__ __forceinline__ void advance(const Items& items, Item* window) {
  if (++window->inner < items.inner.divisor()) return;
  window->inner = 0;
  if (++window->column < items.columns.divisor()) return;
  window->column = 0;
  if (++window->row < items.rows.divisor()) return;
  window->row = 0;
  ++window->image;
}

// Switches that name no position of the map give index 0.
template <typename Switch>
__global__ void __launch_bounds__(kThreadsPerBlock) switches_to_indices(const Switches<Switch> parameters) {
  constexpr int kCount = kSwitchesPerThread;
  for (int64_t group = first_item(); group * kCount < parameters.count; group += item_step()) {
    const int64_t first = group * kCount;
    Item window = parameters.items.at(first);
    const int64_t end = first + kCount < parameters.count ? first + kCount : parameters.count;
    if (parameters.wide && first + kCount == end) {
      const auto switches = load_once<kCount>(parameters.switches_in + first);
      Vector<int64_t, kCount / 2> indices[2];
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        indices[i / 2].lane[i % 2] = index_of(parameters, switches.lane[i], window);
        advance(parameters.items, &window);
      }
      store(parameters.indices_out + first, indices[0]);
      store(parameters.indices_out + first + kCount / 2, indices[1]);
    } else {
      for (int64_t i = first; i < end; ++i) {
        parameters.indices_out[i] = index_of(parameters, parameters.switches_in[i], window);
        advance(parameters.items, &window);
      }
    }
  }
}

// Indices outside their window give a switch with all bits set.
template <typename Switch>
__global__ void __launch_bounds__(kThreadsPerBlock) indices_to_switches(const Switches<Switch> parameters) {
  constexpr int kCount = kSwitchesPerThread;
  for (int64_t group = first_item(); group * kCount < parameters.count; group += item_step()) {
    const int64_t first = group * kCount;
    Item window = parameters.items.at(first);
    const int64_t end = first + kCount < parameters.count ? first + kCount : parameters.count;
    if (parameters.wide && first + kCount == end) {
      const Vector<int64_t, kCount / 2> indices[2] = {
          load_once<kCount / 2>(parameters.indices_in + first),
          load_once<kCount / 2>(parameters.indices_in + first + kCount / 2)};
      Vector<Switch, kCount> switches;
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        switches.lane[i] = switch_of(parameters, indices[i / 2].lane[i % 2], window);
        advance(parameters.items, &window);
      }
      store(parameters.switches_out + first, switches);
    } else {
      for (int64_t i = first; i < end; ++i) {
        parameters.switches_out[i] = switch_of(parameters, parameters.indices_in[i], window);
        advance(parameters.items, &window);
      }
    }
  }
}

// Calls launch(kernel, parameters, items) for parameters whose pointers are set, one input and the other output; the
// windows of `layout`, each image of size `pooled`, lie over maps of size `map`.
template <typename Switch, typename Launch>
void launch_switches(Switches<Switch> parameters, const Layout& layout, const PerAxis& pooled, const PerAxis& map,
                     const Pooling& pooling, Launch&& launch) {
  constexpr int kCount = kSwitchesPerThread;
  parameters.items = Items(layout.images, pooled.z * pooled.y, pooled.x, layout.channels);
  parameters.count = parameters.items.count;
  parameters.wide = aligned<kCount>(parameters.switches_in) && aligned<kCount>(parameters.switches_out) &&
                    aligned<kCount / 2>(parameters.indices_in) && aligned<kCount / 2>(parameters.indices_out);
  parameters.size = map;
  parameters.z = WindowAxis(pooling.z);
  parameters.y = WindowAxis(pooling.y);
  parameters.x = WindowAxis(pooling.x);
  if (parameters.count > 0) {
    parameters.by_pooled_height = Divider(pooled.y);
    parameters.by_height = Divider(map.y);
    parameters.by_width = Divider(map.x);
  }
  parameters.by_kernel_y = Divider(pooling.y.kernel);
  parameters.by_kernel_x = Divider(pooling.x.kernel);
  launch(parameters.indices_out != nullptr ? switches_to_indices<Switch> : indices_to_switches<Switch>, parameters,
         ceil_divide(parameters.count, kCount));
}

}  // namespace deconv_kernels::cuda

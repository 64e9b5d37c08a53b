// Writing sums as results: what of a result lies within the transposed convolution and on the map.
#pragma once

#include "../vector.h"
#include "reached.h"
#include "tasks.h"

namespace deconv_kernels::DECONV_CPU_CAPABILITY {

// Sums of some rows of a plane of one unit's full transposed convolution, for one block of output channels.
template <typename C>
struct HeldRows {
  C* sums;  // (rows, columns, wide)
  int64_t first_row;
  int64_t columns;
  int64_t wide;
};

// Writes what a task has summed of one plane of a unit's result.
template <typename T>
void write_rows(const BackprojectParams& p, const SendTask& task, const HeldRows<Compute<T>>& held, int64_t unit,
                int64_t plane) {
  using C = Compute<T>;
  constexpr int N = kLanes<T>;
  const ReachedBox box(p, unit);
  const Reached& columns = box.columns;
  const int64_t channel = task.channel, count = task.count;
  T* output = static_cast<T*>(p.output);
  for (int64_t row = task.begin; row < task.end; ++row) {
    const bool has_row = box.has_row(plane, row);
    const int64_t line = (unit * p.size.z + plane) * p.size.y + row;  // where channels are innermost
    const C* sums = held.sums + ((row + p.begin.y - held.first_row) * held.columns + p.begin.x) * held.wide;
    if (p.channels_last && count == p.output_channels && held.wide == count) {
      T* to = output + line * p.size.x * count;
      const int64_t first = has_row ? columns.begin * count : 0, last = has_row ? columns.end * count : 0;
      std::memset(to, 0, static_cast<size_t>(first) * sizeof(T));
      for_each_vector<N>(first, last,
                         [&](auto width, int64_t at) { store<T, width>(to + at, load<C, width>(sums + at)); });
      std::memset(to + last, 0, static_cast<size_t>(p.size.x * count - last) * sizeof(T));
    } else if (p.channels_last) {
      T* to = output + line * p.size.x * p.output_channels + channel;
      for (int64_t column = 0; column < p.size.x; ++column, to += p.output_channels) {
        const C* from = sums + column * held.wide;
        if (!has_row || column < columns.begin || column >= columns.end) {
          std::memset(to, 0, static_cast<size_t>(count) * sizeof(T));
          continue;
        }
        int64_t c = 0;
        if (p.streamed) {
          for (; c + N <= count; c += N) stream<T, N>(to + c, load<C, N>(from + c));
        }
        for (; c + N <= count; c += N) store<T, N>(to + c, load<C, N>(from + c));
        for (; c < count; ++c) store_one(to + c, from[c]);
      }
    } else {
      for (int64_t c = 0; c < count; ++c) {
        const int64_t map = unit * p.output_channels + channel + c;
        T* to = output + ((map * p.size.z + plane) * p.size.y + row) * p.size.x;
        std::memset(to, 0, static_cast<size_t>(p.size.x) * sizeof(T));
        if (!has_row) continue;
        for (int64_t x = columns.begin; x < columns.end; ++x) store_one(to + x, sums[x * held.wide + c]);
      }
    }
  }
}

}  // namespace deconv_kernels::DECONV_CPU_CAPABILITY

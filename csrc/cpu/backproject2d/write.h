// Writing sums as results: what of a result lies within the transposed convolution and on the map.
#pragma once

#include "../vector.h"
#include "tasks.h"

namespace deconv_kernels::DECONV_CPU_CAPABILITY {

// The rows or columns of a unit's result that can be other than zero: those within the full transposed convolution and
// on the map.
struct Reached {
  int64_t begin;
  int64_t end;
};

inline Reached reached(int64_t origin, int64_t step, int64_t base, int64_t map_end, int64_t full, int64_t begin,
                       int64_t size) {
  Reached part{0, smaller(full - begin, size)};
  if (map_end >= 0) {
    // A window so far from the map that its place overflows meets none of it.
    int64_t start;
    if (__builtin_mul_overflow(origin, step, &start) || __builtin_add_overflow(start, base, &start)) return {0, 0};
    if (start <= -size || start >= map_end) return {0, 0};
    part.begin = larger(0, -start);
    part.end = smaller(part.end, map_end - start);
  }
  if (part.begin >= part.end) return {0, 0};
  return part;
}

// Sums of some rows of one unit's full transposed convolution, for one block of output channels.
template <typename C>
struct HeldRows {
  C* sums;  // (rows, columns, wide)
  int64_t first_row;
  int64_t columns;
  int64_t wide;
};

// Writes rows [begin, end) of a unit's result, output channels [channel, channel + count).
template <typename T>
void write_rows(const Backproject2dParams& p, const HeldRows<Compute<T>>& held, int64_t unit, int64_t begin,
                int64_t end, int64_t channel, int64_t count) {
  using C = Compute<T>;
  constexpr int N = kLanes<T>;
  const int64_t* origin = p.origin + 2 * unit;
  const Reached rows = reached(origin[0], p.step.y, p.base.y, p.end.y, p.full.y, p.begin.y, p.size.y);
  const Reached columns = reached(origin[1], p.step.x, p.base.x, p.end.x, p.full.x, p.begin.x, p.size.x);
  T* output = static_cast<T*>(p.output);
  for (int64_t row = begin; row < end; ++row) {
    const bool has_row = row >= rows.begin && row < rows.end;
    const C* sums = held.sums + ((row + p.begin.y - held.first_row) * held.columns + p.begin.x) * held.wide;
    if (p.channels_last && count == p.output_channels && held.wide == count) {
      T* to = output + (unit * p.size.y + row) * p.size.x * count;
      const int64_t first = has_row ? columns.begin * count : 0, last = has_row ? columns.end * count : 0;
      std::memset(to, 0, static_cast<size_t>(first) * sizeof(T));
      for_each_vector<N>(first, last,
                         [&](auto width, int64_t at) { store<T, width>(to + at, load<C, width>(sums + at)); });
      std::memset(to + last, 0, static_cast<size_t>(p.size.x * count - last) * sizeof(T));
    } else if (p.channels_last) {
      T* to = output + (unit * p.size.y + row) * p.size.x * p.output_channels + channel;
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
        T* to = output + ((unit * p.output_channels + channel + c) * p.size.y + row) * p.size.x;
        std::memset(to, 0, static_cast<size_t>(p.size.x) * sizeof(T));
        if (!has_row) continue;
        for (int64_t x = columns.begin; x < columns.end; ++x) store_one(to + x, sums[x * held.wide + c]);
      }
    }
  }
}

}  // namespace deconv_kernels::DECONV_CPU_CAPABILITY

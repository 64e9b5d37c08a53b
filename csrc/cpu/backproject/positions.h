// Sending through any taps, stride and dilation: one position at a time.
#pragma once

#include "../vector.h"
#include "tasks.h"

namespace deconv_kernels::DECONV_CPU_CAPABILITY {

// Elements of a slice that lie together both there and in the sums.
struct Run {
  int64_t from;
  int64_t to;
  int64_t count;
};

// Sums kVectors vectors of the weights of one position's entries into `result`. Short slices are summed in several
// strands, so that one sum need not wait for the last.
template <typename C, int kVectors>
inline void sum_slice(const C* values, uint64_t mask, const C* weights, int64_t row, C* result) {
  constexpr int N = kVectorBytes / static_cast<int>(sizeof(C));
  constexpr int kStrands = kVectors > 4 ? 1 : kVectors > 2 ? 2 : 4;
  Vector<C, N> sums[kStrands][kVectors] = {};
  const auto send_next = [&](Vector<C, N>(&to)[kVectors]) __attribute__((always_inline)) {
    const C* from = as_one_register(weights + __builtin_ctzll(mask) * row);
    const Vector<C, N> value = broadcast<C, N>(values++);
    mask &= mask - 1;
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      to[v] = multiply_add<C, N>(value, load_unaligned<Vector<C, N>>(from + v * N), to[v]);
    }
  };
  for (int left = __builtin_popcountll(mask); left >= kStrands; left -= kStrands) {
#pragma GCC unroll 4
    for (int strand = 0; strand < kStrands; ++strand) send_next(sums[strand]);
  }
  while (mask != 0) send_next(sums[0]);
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 4
    for (int strand = 1; strand < kStrands; ++strand) sums[0][v] += sums[strand][v];
    store_unaligned(result + v * N, sums[0][v]);
  }
}

// The same for any number of vectors.
template <typename C>
inline void sum_slice(int64_t vectors, const C* values, uint64_t mask, const C* weights, int64_t row, C* result) {
  constexpr int N = kVectorBytes / static_cast<int>(sizeof(C));
  for (; vectors >= 8; vectors -= 8, weights += 8 * N, result += 8 * N) {
    sum_slice<C, 8>(values, mask, weights, row, result);
  }
  switch (vectors) {
    case 7:
      return sum_slice<C, 7>(values, mask, weights, row, result);
    case 6:
      return sum_slice<C, 6>(values, mask, weights, row, result);
    case 5:
      return sum_slice<C, 5>(values, mask, weights, row, result);
    case 4:
      return sum_slice<C, 4>(values, mask, weights, row, result);
    case 3:
      return sum_slice<C, 3>(values, mask, weights, row, result);
    case 2:
      return sum_slice<C, 2>(values, mask, weights, row, result);
    case 1:
      return sum_slice<C, 1>(values, mask, weights, row, result);
    default:
      return;
  }
}

template <int N, typename C>
inline void add_run(C* to, const C* from, int64_t count) {
  for (; count >= N; count -= N, to += N, from += N) {
    using V = Vector<C, N>;
    store_unaligned(to, load_unaligned<V>(to) + load_unaligned<V>(from));
  }
  if constexpr (N > 1) add_run<N / 2>(to, from, count);
}

// Any taps, stride and dilation: one position at a time, a slice of a plane of taps and output channels after the
// other.
template <typename T>
void send_positions(const BackprojectParams& p, const SendTask& task, const CellRows& rows, Compute<T>* memory) {
  using C = Compute<T>;
  constexpr int N = kVectorBytes / static_cast<int>(sizeof(C));
  constexpr int64_t kLargestSlice = kSliceLines * kLine<C>;
  const SignalLists& lists = p.lists;
  const int64_t wide = p.weight.wide;
  const int64_t row_of_sums = held_columns(p) * wide, plane_of_sums = rows.held * row_of_sums;
  const int64_t blocks = lists.blocks / p.groups;
  const int64_t elements = p.kernel.y * p.kernel.x * wide;
  const bool plain = p.weight.plain;
  const int64_t first_plane =
      (plain ? task.group : task.group * p.weight.blocks + task.block) * (plain ? p.weight.blocks : p.weight.planes);
  for (int64_t step = 0; step < p.weight.planes * parts_of(p.weight.lines, kSliceLines); ++step) {
    const int64_t tap_plane = step % p.weight.planes, line = step / p.weight.planes * kSliceLines;
    const C* packed = reinterpret_cast<const C*>(static_cast<const char*>(p.weight.data) +
                                                 (first_plane + tap_plane) * plane_bytes(p.weight));
    const int64_t row = smaller(kSliceLines, p.weight.lines - line) * kLine<C>;
    // From the weights of one channel to those of the next.
    const int64_t pitch = plain ? p.weight.blocks * wide : row;
    const C* slice = packed + (plain ? task.block * wide + line * kLine<C> : line * p.weight.channels * kLine<C>);
    Run runs[kLargestSlice];
    int64_t count_of_runs = 0;
    for (int64_t element = 0; element < row && line * kLine<C> + element < elements; ++element) {
      const int64_t tap = (line * kLine<C> + element) / wide, channel = (line * kLine<C> + element) % wide;
      const int64_t to =
          tap / p.kernel.x * p.dilation.y * row_of_sums + tap % p.kernel.x * p.dilation.x * wide + channel;
      if (count_of_runs > 0 && to == runs[count_of_runs - 1].to + runs[count_of_runs - 1].count) {
        ++runs[count_of_runs - 1].count;
      } else {
        runs[count_of_runs++] = {element, to, 1};
      }
    }
    for (int64_t block = 0; block < blocks; ++block) {
      const C* weights = slice + block * kListedChannels * pitch;
      C* sums = memory;
      for (int64_t unit = task.unit; unit < task.unit_end; ++unit) {
        const Reached planes = ReachedBox(p, unit).planes;
        for (int64_t plane = task.plane; plane < task.plane_end; ++plane, sums += plane_of_sums) {
          const int64_t from = plane_sent(p, lists.planes, tap_plane, plane + p.begin.z);
          if (from < 0 || !planes.holds(plane)) continue;
          const int64_t list = (unit * lists.blocks + task.group * blocks + block) * lists.planes + from;
          for (int64_t y = rows.begin; y < rows.end; ++y) {
            const int64_t listed = list * lists.rows + y;
            if (lists.entries[listed] == 0) continue;
            const C* values = static_cast<const C*>(lists.values) + listed * lists.capacity;
            const uint64_t* masks = lists.masks + listed * lists.columns;
            C* outputs = sums + (y * p.stride.y - rows.first_row) * row_of_sums;
            for (int64_t x = 0; x < lists.columns; ++x, outputs += p.stride.x * wide) {
              if (masks[x] == 0) continue;
              alignas(64) C sent[kLargestSlice];
              sum_slice<C>(row / N, values, masks[x], weights, pitch, sent);
              for (int64_t run = 0; run < count_of_runs; ++run) {
                add_run<N>(outputs + runs[run].to, sent + runs[run].from, runs[run].count);
              }
              values += __builtin_popcountll(masks[x]);
            }
          }
        }
      }
    }
  }
}

}  // namespace deconv_kernels::DECONV_CPU_CAPABILITY

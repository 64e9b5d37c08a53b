// Sending through planes of 3x3 taps with stride 1: a cell of four positions at once.
#pragma once

#include "../vector.h"
#include "tasks.h"

namespace deconv_kernels::DECONV_CPU_CAPABILITY {

// Sends one position of a cell of four: nine taps, into the 4 x 4 outputs that the cell reaches. `values` moves on to
// those of the next position. Beside its weights an entry reads nothing but its value, for the processor can read no
// faster than it multiplies.
template <int kY, int kX, typename C, int N>
inline void send_in_tile(Vector<C, N> (&sums)[4][4], const C*& values, uint64_t mask, const C* weights) {
  constexpr int kTaps = 9;
  for (; mask != 0; mask &= mask - 1) {
    const C* line = as_one_register(weights + int64_t{__builtin_ctzll(mask)} * (kTaps * kLine<C>));
    const Vector<C, N> value = broadcast<C, N>(values++);
#pragma GCC unroll 3
    for (int y = 0; y < 3; ++y) {
#pragma GCC unroll 3
      for (int x = 0; x < 3; ++x) {
        const Vector<C, N> weight = load_unaligned<Vector<C, N>>(line + (y * 3 + x) * kLine<C>);
        sums[kY + y][kX + x] = multiply_add<C, N>(value, weight, sums[kY + y][kX + x]);
      }
    }
  }
}

// Sends a row of cells of four positions into four rows of outputs, `row` elements apart. Outputs that two neighbouring
// cells reach stay in registers between them.
template <typename C>
inline void send_row(const C* values, const uint64_t* masks, int64_t columns, const C* weights, C* sums, int64_t row) {
  constexpr int N = kVectorBytes / static_cast<int>(sizeof(C));
  using V = Vector<C, N>;
  for (int part = 0; part < kLine<C>; part += N) {
    const C* value = values;
    const C* from = weights + part;
    C* to = sums + part;
    V held[4][4];
#pragma GCC unroll 4
    for (int y = 0; y < 4; ++y) {
      held[y][0] = load_unaligned<V>(to + y * row);
      held[y][1] = load_unaligned<V>(to + y * row + kLine<C>);
    }
    for (int64_t column = 0; column < columns; ++column, to += 2 * kLine<C>) {
      const uint64_t* mask = masks + 4 * column;
#pragma GCC unroll 4
      for (int y = 0; y < 4; ++y) {
        held[y][2] = load_unaligned<V>(to + y * row + 2 * kLine<C>);
        held[y][3] = load_unaligned<V>(to + y * row + 3 * kLine<C>);
        __builtin_prefetch(to + y * row + 6 * kLine<C>, 1);
        __builtin_prefetch(to + y * row + 7 * kLine<C>, 1);
      }
      send_in_tile<0, 0, C, N>(held, value, mask[0], from);
      send_in_tile<0, 1, C, N>(held, value, mask[1], from);
      send_in_tile<1, 0, C, N>(held, value, mask[2], from);
      send_in_tile<1, 1, C, N>(held, value, mask[3], from);
#pragma GCC unroll 4
      for (int y = 0; y < 4; ++y) {
        store_unaligned(to + y * row, held[y][0]);
        store_unaligned(to + y * row + kLine<C>, held[y][1]);
        held[y][0] = held[y][2];
        held[y][1] = held[y][3];
      }
    }
#pragma GCC unroll 4
    for (int y = 0; y < 4; ++y) {
      store_unaligned(to + y * row, held[y][0]);
      store_unaligned(to + y * row + kLine<C>, held[y][1]);
    }
  }
}

// Planes of 3x3 taps with stride 1: a cell of four positions at once.
template <typename T>
void send_tiles(const BackprojectParams& p, const SendTask& task, const CellRows& rows, Compute<T>* memory) {
  using C = Compute<T>;
  const SignalLists& lists = p.lists;
  const int64_t row_of_sums = held_columns(p) * kLine<C>, plane_of_sums = rows.held * row_of_sums;
  const int64_t blocks = lists.blocks / p.groups;
  const char* packed = static_cast<const char*>(p.weight.data) +
                       (task.group * p.weight.blocks + task.block) * p.weight.planes * plane_bytes(p.weight);
  for (int64_t block = 0; block < blocks; ++block) {
    for (int64_t tap = 0; tap < p.weight.planes; ++tap) {
      const C* weights = reinterpret_cast<const C*>(packed + tap * plane_bytes(p.weight) +
                                                    block * kListedChannels * p.weight.lines * kLineBytes);
      C* sums = memory;
      for (int64_t unit = task.unit; unit < task.unit_end; ++unit) {
        const Reached planes = ReachedBox(p, unit).planes;
        for (int64_t plane = task.plane; plane < task.plane_end; ++plane, sums += plane_of_sums) {
          const int64_t from = plane_sent(p, lists.planes, tap, plane + p.begin.z);
          if (from < 0 || !planes.holds(plane)) continue;
          const int64_t list = (unit * lists.blocks + task.group * blocks + block) * lists.planes + from;
          for (int64_t row = rows.begin; row < rows.end; ++row) {
            const int64_t listed = list * lists.rows + row;
            if (lists.entries[listed] == 0) continue;
            send_row<C>(static_cast<const C*>(lists.values) + listed * lists.capacity,
                        lists.masks + listed * lists.columns * 4, lists.columns, weights,
                        sums + (2 * row - rows.first_row) * row_of_sums, row_of_sums);
          }
        }
      }
    }
  }
}

}  // namespace deconv_kernels::DECONV_CPU_CAPABILITY

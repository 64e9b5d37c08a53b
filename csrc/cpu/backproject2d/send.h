// Transposed convolution of windows that are mostly zero, as unpooling and rectification leave them, in two passes:
// - listing (list.h): for every position and block of channels, the channels that are not zero, and their values;
// - sending: every listed value, times its weights, to the outputs it reaches. Weights of one block of channels and
//   outputs stay in the first cache for all positions; outputs gather in registers, then in a band of rows in cache.
// Whatever is computed together, an output is summed in one order: blocks of channels, then cells, then positions.
#pragma once

#include "positions.h"
#include "tiles.h"
#include "write.h"

namespace deconv_kernels::DECONV_CPU_CAPABILITY {

template <typename T>
void send_signal_tasks(const Backproject2dParams& p, const SendPlan& plan, void* memory, int64_t begin, int64_t end) {
  using C = Compute<T>;
  for (int64_t number = begin; number < end; ++number) {
    const SendTask task(p, plan, number);
    const CellRows rows(p, task.begin, task.end);
    const int64_t sums_of_unit = rows.held * held_columns(p) * p.weight.wide;
    C* sums = static_cast<C*>(memory);
    std::memset(sums, 0, static_cast<size_t>((task.unit_end - task.unit) * sums_of_unit) * sizeof(C));
    p.weight.tiled ? send_tiles<T>(p, task, rows, sums) : send_positions<T>(p, task, rows, sums);
    for (int64_t unit = task.unit; unit < task.unit_end; ++unit, sums += sums_of_unit) {
      const HeldRows<C> held{sums, rows.first_row, held_columns(p), p.weight.wide};
      write_rows<T>(p, held, unit, task.begin, task.end, task.channel, task.count);
    }
  }
  if (p.streamed) finish_streams();
}

}  // namespace deconv_kernels::DECONV_CPU_CAPABILITY

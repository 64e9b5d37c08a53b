// Transposed convolution of windows that are mostly zero, as unpooling and rectification leave them, in two passes:
// - listing (list.h): for every position and block of channels, which channels are not zero, and their values;
// - sending: every listed value, times its weights, to the outputs it reaches. Weights of one block of channels and
//   outputs stay in the first cache for all positions; outputs gather in registers, then in a band of rows in cache.
// A signal with depth is sent in as many passes as the taps have planes, each from planes to planes.
// Whatever is computed together, an output is summed in one order, which the geometry alone decides.
#pragma once

#include "positions.h"
#include "tiles.h"
#include "write.h"

namespace deconv_kernels::DECONV_CPU_CAPABILITY {

template <typename T>
void send_signal_tasks(const BackprojectParams& p, const SendPlan& plan, void* memory, int64_t begin, int64_t end) {
  using C = Compute<T>;
  for (int64_t number = begin; number < end; ++number) {
    const SendTask task(p, plan, number);
    const CellRows rows(p, task.begin, task.end);
    const int64_t plane_of_sums = rows.held * held_columns(p) * p.weight.wide;
    const int64_t planes = (task.unit_end - task.unit) * (task.plane_end - task.plane);
    C* sums = static_cast<C*>(memory);
    std::memset(sums, 0, static_cast<size_t>(planes * plane_of_sums) * sizeof(C));
    p.weight.tiled ? send_tiles<T>(p, task, rows, sums) : send_positions<T>(p, task, rows, sums);
    for (int64_t unit = task.unit; unit < task.unit_end; ++unit) {
      for (int64_t plane = task.plane; plane < task.plane_end; ++plane, sums += plane_of_sums) {
        write_rows<T>(p, task, HeldRows<C>{sums, rows.first_row, held_columns(p), p.weight.wide}, unit, plane);
      }
    }
  }
  if (p.streamed) finish_streams();
}

}  // namespace deconv_kernels::DECONV_CPU_CAPABILITY

// How the work of a transposed convolution is divided; shared by the loops and their launcher.
#pragma once

#include "reached.h"

namespace deconv_kernels::DECONV_CPU_CAPABILITY {

// Bytes of one plane of taps of a block of output channels.
inline int64_t plane_bytes(const PackedWeight& weight) { return weight.channels * weight.lines * kLineBytes; }

inline int64_t parts_of(int64_t whole, int64_t part) { return (whole + part - 1) / part; }

inline int64_t tasks_of(const BackprojectParams& p, const SendPlan& plan) {
  return p.groups * p.weight.blocks * parts_of(p.units, plan.units) * parts_of(p.size.z, plan.planes) *
         parts_of(p.size.y, plan.rows);
}

// The plane of the signal that the plane `tap` of the taps sends to plane `to` of the full transposed convolution; -1
// where it sends none.
inline int64_t plane_sent(const BackprojectParams& p, int64_t planes, int64_t tap, int64_t to) {
  const int64_t offset = to - tap * p.dilation.z;
  return offset >= 0 && offset % p.stride.z == 0 && offset / p.stride.z < planes ? offset / p.stride.z : -1;
}

// What one task sends: a block of output channels of a group, for units [unit, unit_end), and of their results planes
// [plane, plane_end) and rows [begin, end).
struct SendTask {
  int64_t group;
  int64_t block;
  int64_t unit;
  int64_t unit_end;
  int64_t plane;
  int64_t plane_end;
  int64_t begin;
  int64_t end;
  int64_t channel;  // first of its output channels
  int64_t count;    // of them

  SendTask(const BackprojectParams& p, const SendPlan& plan, int64_t number) {
    const int64_t sets = parts_of(p.units, plan.units);
    const int64_t bands = parts_of(p.size.y, plan.rows);
    begin = number % bands * plan.rows;
    end = smaller(begin + plan.rows, p.size.y);
    number /= bands;
    const int64_t slabs = parts_of(p.size.z, plan.planes);
    plane = number % slabs * plan.planes;
    plane_end = smaller(plane + plan.planes, p.size.z);
    number /= slabs;
    unit = number % sets * plan.units;
    unit_end = smaller(unit + plan.units, p.units);
    number /= sets;
    group = number / p.weight.blocks;
    block = number % p.weight.blocks;
    const int64_t output_channels = p.output_channels / p.groups;
    channel = group * output_channels + block * p.weight.wide;
    count = smaller(p.weight.wide, output_channels - block * p.weight.wide);
  }
};

// The rows of cells that reach rows [begin, end) of a result, and the rows of the full transposed convolution that have
// to be held for them.
struct CellRows {
  int64_t begin;
  int64_t end;
  int64_t first_row;
  int64_t held;

  CellRows(const BackprojectParams& p, int64_t result_begin, int64_t result_end) {
    const int64_t from = smaller(result_begin + p.begin.y, p.full.y), to = smaller(result_end + p.begin.y, p.full.y);
    const int64_t step = p.lists.side * p.stride.y;
    const int64_t reach = (p.lists.side - 1) * p.stride.y + p.dilation.y * (p.kernel.y - 1) + 1;
    begin = from < reach ? 0 : (from - reach) / step + 1;
    end = larger(begin, smaller(p.lists.rows, parts_of(to, step)));
    first_row = smaller(from, begin * step);
    held = larger(to, end > begin ? (end - 1) * step + reach : 0) - first_row;
  }
};

// Columns held for one unit: all that its cells reach.
inline int64_t held_columns(const BackprojectParams& p) {
  return (p.lists.columns * p.lists.side - 1) * p.stride.x + p.dilation.x * (p.kernel.x - 1) + 1;
}

// A product, or the largest number where it is larger.
inline int64_t product(int64_t a, int64_t b) {
  int64_t result;
  return __builtin_mul_overflow(a, b, &result) ? INT64_MAX : result;
}

// Elements of the largest task's sums. Planes are held as they are wanted, for each plane of taps is sent by itself.
inline int64_t largest_sums(const BackprojectParams& p, const SendPlan& plan) {
  int64_t held = 0;
  for (int64_t row = 0; row < p.size.y; row += plan.rows) {
    held = larger(held, CellRows(p, row, smaller(row + plan.rows, p.size.y)).held);
  }
  const int64_t planes = smaller(plan.units, p.units) * plan.planes;
  return product(product(held, held_columns(p)), product(planes, p.weight.wide));
}

// Elements of a line of packed weights.
template <typename C>
constexpr int kLine = static_cast<int>(kLineBytes / sizeof(C));

}  // namespace deconv_kernels::DECONV_CPU_CAPABILITY

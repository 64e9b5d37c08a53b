// What of a unit's result lies within the transposed convolution and on the map.
#pragma once

#include "../kernels.h"

// Like the loops, compiled in a namespace for each instruction set.
#if !defined(DECONV_CPU_CAPABILITY)
#define DECONV_CPU_CAPABILITY baseline
#endif

namespace deconv_kernels::DECONV_CPU_CAPABILITY {

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// Where the window of a unit lies.
inline PerAxis origin_of(const BackprojectParams& p, int64_t unit) {
  const int64_t* end = p.origin + (unit + 1) * p.rank;
  return {p.rank == 3 ? end[-3] : 0, end[-2], end[-1]};
}

// The planes, rows or columns of a unit's result that can be other than zero: those within the full transposed
// convolution and on the map.
struct Reached {
  int64_t begin;
  int64_t end;

  bool holds(int64_t place) const { return place >= begin && place < end; }
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

// The same along all axes, of one unit.
struct ReachedBox {
  Reached planes;
  Reached rows;
  Reached columns;

  ReachedBox(const BackprojectParams& p, int64_t unit) {
    const PerAxis origin = origin_of(p, unit);
    planes = reached(origin.z, p.step.z, p.base.z, p.end.z, p.full.z, p.begin.z, p.size.z);
    rows = reached(origin.y, p.step.y, p.base.y, p.end.y, p.full.y, p.begin.y, p.size.y);
    columns = reached(origin.x, p.step.x, p.base.x, p.end.x, p.full.x, p.begin.x, p.size.x);
  }

  bool has_row(int64_t plane, int64_t row) const {
    return plane >= planes.begin && plane < planes.end && row >= rows.begin && row < rows.end;
  }
};

}  // namespace deconv_kernels::DECONV_CPU_CAPABILITY

// What the CPU launchers share.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <atomic>
#include <vector>

#include "../checks.h"
#include "caches.h"
#include "kernels.h"

namespace deconv_kernels {

// An uninitialised dense result. Large ones ask for large pages: the system clears fresh memory page by page, which
// would take longer than writing the result.
inline Tensor result_map(const MapShape& shape, ScalarType dtype, const Tensor& like) {
  Tensor result = empty_map(shape, dtype, like);
#if defined(__linux__)
  constexpr uintptr_t kLargePage = uintptr_t{2} << 20;
  const uintptr_t memory = reinterpret_cast<uintptr_t>(result.mutable_data_ptr());
  const uintptr_t first = (memory + kLargePage - 1) / kLargePage * kLargePage;
  const uintptr_t end =
      (memory + static_cast<uintptr_t>(result.numel()) * result.element_size()) / kLargePage * kLargePage;
  // Advice only: where the system does not take it, nothing changes.
  if (end > first + kLargePage) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#endif
  return result;
}

// Whether a result is so large that the next to read it finds little of it in the caches anyway; reading their lines
// first, only to overwrite them, would take time.
inline bool exceeds_caches(const Tensor& result) {
  return result.numel() * static_cast<int64_t>(result.element_size()) >= streamed_from();
}

// Whether its rows of `row` elements can be written past the caches one by one: they are whole lines or halves.
inline bool bypasses_caches(const Tensor& result, int64_t row) {
  return exceeds_caches(result) && row * static_cast<int64_t>(result.element_size()) % 32 == 0;
}

// Of a tensor that is known to be floating.
inline Element element_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return Element::kFloat;
    case ScalarType::Double:
      return Element::kDouble;
    case ScalarType::Half:
      return Element::kHalf;
    default:
      return Element::kBFloat16;
  }
}

inline void check_images(const int64_t* image, int64_t units, int64_t images) {
  for (int64_t unit = 0; unit < units; ++unit) {
    DK_CHECK(image[unit] >= 0 && image[unit] < images, "image must be between 0 and ", images - 1, ", got ",
             image[unit]);
  }
}

// Runs body(task) for every task, on all threads where `parallel`; whoever is free takes the next.
template <typename Body>
void run_tasks(int64_t tasks, bool parallel, const Body& body) {
  const int64_t threads = parallel ? std::min(tasks, static_cast<int64_t>(torch::stable::get_num_threads())) : 1;
  if (threads <= 1) {
    for (int64_t task = 0; task < tasks; ++task) body(task);
    return;
  }
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    for (int64_t task = next++; task < tasks; task = next++) body(task);
  });
}

// Runs body(begin, end) over the rows of a result, in parallel where there is enough to do. There are more pieces than
// threads, so that a thread that other programs hold up does not hold up its share.
template <typename Body>
void parallel_rows(int64_t rows, int64_t elements_per_row, const Body& body) {
  constexpr int64_t kElementsPerTask = 16384;
  constexpr int64_t kTasksPerThread = 4;
  const int64_t grain = kElementsPerTask / elements_per_row + 1;
  if (rows <= grain) {
    if (rows > 0) body(0, rows);
    return;
  }
  const int64_t most = kTasksPerThread * static_cast<int64_t>(torch::stable::get_num_threads());
  const int64_t tasks = std::min(most, ceil_divide(rows, grain));
  run_tasks(tasks, true, [&](int64_t task) { body(task * rows / tasks, (task + 1) * rows / tasks); });
}

// The phases of one axis, and the memory they live in.
class PhaseTable {
 public:
  explicit PhaseTable(const Axis& axis) {
    const int64_t count = axis.stride < extent(axis) ? axis.stride : extent(axis);
    begin_.reserve(static_cast<size_t>(count) + 1);
    taps_.reserve(static_cast<size_t>(axis.kernel));
    begin_.push_back(0);
    for (int64_t phase = 0; phase < count; ++phase) {
      // Earlier windows are farther back: falling `back` is row-major order.
      for (int64_t back = (extent(axis) - 1 - phase) / axis.stride; back >= 0; --back) {
        const int64_t offset = phase + back * axis.stride;
        if (offset % axis.dilation != 0) continue;
        taps_.push_back({back, offset / axis.dilation});
      }
      begin_.push_back(static_cast<int64_t>(taps_.size()));
      const int64_t owned = begin_.back() - begin_[begin_.size() - 2];
      if (owned > most_) most_ = owned;
    }
  }

  Phases view() const { return {begin_.data(), taps_.data(), static_cast<int64_t>(begin_.size()) - 1, most_}; }

 private:
  std::vector<int64_t> begin_;
  std::vector<PhaseTap> taps_;
  int64_t most_ = 1;
};

}  // namespace deconv_kernels

// Memory of the CPU launchers beside their results.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>

#include "../maps.h"

namespace deconv_kernels {

// Memory that a thread keeps from call to call, so that the system need not clear it again.
class Workspace {
 public:
  void* get(size_t bytes) {
    if (bytes > size_) {
      constexpr size_t kAlignment = 4096;
      size_ = (bytes + kAlignment - 1) / kAlignment * kAlignment;
      memory_.reset();
      memory_.reset(std::aligned_alloc(kAlignment, size_));
      if (memory_ == nullptr) {
        size_ = 0;
        DK_CHECK(false, "no memory left for ", bytes, " bytes of workspace");
      }
    }
    return memory_.get();
  }

  // Gives back what only an unusually large call needed.
  void trim() {
    constexpr size_t kKept = size_t{64} << 20;
    if (size_ > kKept) {
      memory_.reset();
      size_ = 0;
    }
  }

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::unique_ptr<void, Free> memory_;
  size_t size_ = 0;
};

}  // namespace deconv_kernels

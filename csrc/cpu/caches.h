// What the launchers know of the processor's caches.
#pragma once

#include <cstdint>

namespace deconv_kernels {

// Bytes of the largest cache that the system tells of; 0 where it tells of none.
int64_t largest_cache();

// Bytes from which on a result is written past the caches.
int64_t streamed_from();

}  // namespace deconv_kernels

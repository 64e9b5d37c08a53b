#include "caches.h"

#include <algorithm>
#include <fstream>
#include <string>

namespace deconv_kernels {

namespace {

// Of the first processor's caches as Linux lists them. Unlike sysconf, which adds up all caches of a package, Linux
// tells how large the one is that a thread sees.
int64_t read_largest_cache() {
  int64_t largest = 0;
  for (int index = 0;; ++index) {
    std::ifstream file("/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/size");
    int64_t size = 0;
    char unit = ' ';
    if (!(file >> size)) return largest;
    file >> unit;
    const int shift = unit == 'K' ? 10 : unit == 'M' ? 20 : 0;
    if (size > 0 && size < int64_t{1} << 40 >> shift) largest = std::max(largest, size << shift);
  }
}

}  // namespace

int64_t largest_cache() {
  static const int64_t largest = read_largest_cache();
  return largest;
}

// A quarter of the cache, for what is read meanwhile and what other programs keep there takes the rest.
int64_t streamed_from() {
  constexpr int64_t kWhereUnknown = int64_t{8} << 20;
  static const int64_t bytes = largest_cache() > 0 ? largest_cache() / 4 : kWhereUnknown;
  return bytes;
}

}  // namespace deconv_kernels

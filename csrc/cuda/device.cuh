// What every kernel stands on: number types, wide loads and stores, division by run-time constants and the
// grid-stride loop. Compiles with nvcc and, through host/cuda_on_host.h, with a host compiler.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#else
#include "host/cuda_on_host.h"
#endif

namespace deconv_kernels::cuda {

constexpr int kThreadsPerBlock = 128;

// Blocks per multiprocessor that must fit, which bounds the registers of a thread that holds kernel rows of lanes.
constexpr int least_blocks(int lanes, int kernel) { return lanes * kernel >= 24 ? 3 : 4; }

constexpr int kBytesPerAccess = 16;

// Lanes of T in one 16-byte access.
template <typename T>
constexpr int kWidestLanes = kBytesPerAccess / static_cast<int>(sizeof(T));

// Comparisons and sums run in float32, for float64 in float64.
template <typename T>
using Arithmetic = std::conditional_t<std::is_same_v<T, double>, double, float>;

__device__ __forceinline__ float to_arithmetic(float value) { return value; }
__device__ __forceinline__ double to_arithmetic(double value) { return value; }
__device__ __forceinline__ float to_arithmetic(__half value) { return __half2float(value); }
__device__ __forceinline__ float to_arithmetic(__nv_bfloat16 value) { return __bfloat162float(value); }

template <typename T>
__device__ __forceinline__ T round_to(Arithmetic<T> value) {
  if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(value);
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(value);
  } else {
    return value;
  }
}

template <typename A>
constexpr A kLowest = -std::numeric_limits<A>::infinity();

// Keeps NaN and -0.0, as ATen's relu does.
template <typename A>
__device__ __forceinline__ A rectify(A value) {
  return value < A(0) ? A(0) : value;
}

// A later tap replaces the maximum if it is larger or NaN; so the last NaN of a window wins, and among equal values the
// first.
template <typename A>
__device__ __forceinline__ bool replaces(A value, A maximum) {
  return value > maximum || value != value;
}

template <typename T, int kLanes>
struct alignas(sizeof(T) * kLanes) Vector {
  T lane[kLanes];
};

template <int kBytes>
struct Word;
template <>
struct Word<16> {
  using type = uint4;
};
template <>
struct Word<8> {
  using type = uint2;
};
template <>
struct Word<4> {
  using type = unsigned int;
};
template <>
struct Word<2> {
  using type = unsigned short;
};
template <>
struct Word<1> {
  using type = unsigned char;
};

// For data that neighbouring threads read too: it stays in L1.
template <int kLanes, typename T>
__device__ __forceinline__ Vector<T, kLanes> load_shared_data(const T* from) {
  using W = typename Word<sizeof(T) * kLanes>::type;
  const W word = __ldg(reinterpret_cast<const W*>(from));
  Vector<T, kLanes> vector;
  std::memcpy(&vector, &word, sizeof(vector));
  return vector;
}

// The same where `there`, otherwise kLanes times `fill`; one predicated load.
template <int kLanes, typename T>
__device__ __forceinline__ Vector<T, kLanes> load_shared_data_or(bool there, const T* base, int64_t offset, T fill) {
  using W = typename Word<sizeof(T) * kLanes>::type;
  Vector<T, kLanes> vector;
#pragma unroll
  for (int lane = 0; lane < kLanes; ++lane) vector.lane[lane] = fill;
  W word;
  std::memcpy(&word, &vector, sizeof(vector));
  if (there) word = __ldg(reinterpret_cast<const W*>(base + offset));
  std::memcpy(&vector, &word, sizeof(vector));
  return vector;
}

// For data that is read once.
template <int kLanes, typename T>
__device__ __forceinline__ Vector<T, kLanes> load_once(const T* from) {
  using W = typename Word<sizeof(T) * kLanes>::type;
  const W word = __ldcs(reinterpret_cast<const W*>(from));
  Vector<T, kLanes> vector;
  std::memcpy(&vector, &word, sizeof(vector));
  return vector;
}

template <typename T, int kLanes>
__device__ __forceinline__ void store(T* to, const Vector<T, kLanes>& vector) {
  using W = typename Word<sizeof(T) * kLanes>::type;
  W word;
  std::memcpy(&word, &vector, sizeof(vector));
  __stcs(reinterpret_cast<W*>(to), word);
}

// Whether kLanes elements at any multiple of kLanes from `pointer` can be accessed at once.
template <int kLanes, typename T>
inline bool aligned(const T* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % (sizeof(T) * kLanes) == 0;
}

// Exact division of non-negative numbers by a divisor known at launch. The reciprocal is rounded down, so the
// estimated quotient is at most one too small for every 64-bit numerator.
class Divider {
 public:
  Divider() = default;
  explicit Divider(int64_t divisor) : divisor_(divisor), reciprocal_(~uint64_t{0} / static_cast<uint64_t>(divisor)) {}

  __device__ __forceinline__ int64_t divide(int64_t numerator, int64_t* remainder) const {
    int64_t quotient = static_cast<int64_t>(__umul64hi(static_cast<uint64_t>(numerator), reciprocal_));
    int64_t rest = numerator - quotient * divisor_;
    if (rest >= divisor_) {
      ++quotient;
      rest -= divisor_;
    }
    *remainder = rest;
    return quotient;
  }
  __device__ __forceinline__ int64_t floor(int64_t numerator) const {
    int64_t rest;
    return divide(numerator, &rest);
  }
  __device__ __forceinline__ int64_t ceil(int64_t numerator) const { return floor(numerator + divisor_ - 1); }
  __device__ __forceinline__ int64_t divisor() const { return divisor_; }

 private:
  int64_t divisor_ = 1;
  uint64_t reciprocal_ = ~uint64_t{0};
};

// The work of one thread: a place in an images x rows x columns x inner grid, inner fastest.
struct Item {
  int64_t image;
  int64_t row;
  int64_t column;
  int64_t inner;
};

struct Items {
  Items() = default;
  Items(int64_t images, int64_t row_count, int64_t column_count, int64_t inner_count)
      : count(images * row_count * column_count * inner_count) {
    if (count == 0) return;
    rows = Divider(row_count);
    columns = Divider(column_count);
    inner = Divider(inner_count);
  }

  __device__ __forceinline__ Item at(int64_t index) const {
    Item item;
    item.inner = 0;
    if (inner.divisor() != 1) index = inner.divide(index, &item.inner);
    index = columns.divide(index, &item.column);
    item.image = rows.divide(index, &item.row);
    return item;
  }

  int64_t count = 0;
  Divider rows;
  Divider columns;
  Divider inner;
};

__device__ __forceinline__ int64_t first_item() {
  return static_cast<int64_t>(blockIdx.x) * kThreadsPerBlock + static_cast<int64_t>(threadIdx.x);
}
__device__ __forceinline__ int64_t item_step() { return static_cast<int64_t>(gridDim.x) * kThreadsPerBlock; }

// Blocks of a launch over `items`; the grid-stride loop takes what is beyond the largest grid.
inline unsigned int blocks_for(int64_t items) {
  constexpr int64_t kMostBlocks = std::numeric_limits<int32_t>::max();
  const int64_t blocks = (items - 1) / kThreadsPerBlock + 1;
  return static_cast<unsigned int>(blocks < kMostBlocks ? blocks : kMostBlocks);
}

// Which of `count` consecutive positions from `start` lie in begin <= position < end, counted from the first of them.
// In 32 bits, because a thread asks this of every element it touches.
class Span {
 public:
  __device__ __forceinline__ Span(int64_t start, int count, int64_t begin, int64_t end)
      : first_(clamp(begin - start, count)), end_(clamp(end - start, count)) {}
  __device__ __forceinline__ bool has(int i) const { return i >= first_ && i < end_; }

 private:
  static __device__ __forceinline__ int clamp(int64_t value, int count) {
    return value <= 0 ? 0 : value >= count ? count : static_cast<int>(value);
  }

  int first_;
  int end_;
};

// How a (N, C, H, W) tensor lies in memory, seen as [images][height][width][channels] with channels fastest. A
// contiguous tensor is N * C images of one channel, a channels_last one N images of C channels.
struct Layout {
  Layout() = default;
  Layout(int64_t batch, int64_t all_channels, bool channels_last)
      : images(channels_last ? batch : batch * all_channels),
        channels(channels_last ? all_channels : 1),
        images_per_sample(channels_last || all_channels == 0 ? 1 : all_channels) {}

  int64_t images = 0;
  int64_t channels = 1;
  Divider images_per_sample;
};

// Which kernel of an op runs. kAutomatic takes the fastest that fits; a named one is for tests.
enum class Path { kAutomatic, kPairs, kColumns, kGeneral, kPatches, kTiles };

}  // namespace deconv_kernels::cuda

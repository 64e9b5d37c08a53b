// Enough of CUDA C++ for a host compiler to run kernels: the threads of a block run one after another, in any order,
// each from one barrier to the next.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <span>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)

struct dim3 {
  unsigned int x = 1;
  unsigned int y = 1;
  unsigned int z = 1;
};

inline dim3 threadIdx;
inline dim3 blockIdx;
inline dim3 blockDim;
inline dim3 gridDim;

struct alignas(8) uint2 {
  unsigned int x, y;
};
struct alignas(16) uint4 {
  unsigned int x, y, z, w;
};

inline uint64_t __umul64hi(uint64_t a, uint64_t b) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<uint64_t>((static_cast<Wide>(a) * b) >> 64);
}

// A misaligned wide access, which a GPU refuses, ends the process.
template <typename W>
void require_aligned(const W* address) {
  if (reinterpret_cast<uintptr_t>(address) % alignof(W) != 0) {
    std::fprintf(stderr, "misaligned access of %zu bytes\n", sizeof(W));
    std::abort();
  }
}

template <typename W>
W __ldg(const W* from) {
  require_aligned(from);
  W word;
  std::memcpy(&word, static_cast<const void*>(from), sizeof(W));
  return word;
}

template <typename W>
W __ldcs(const W* from) {
  return __ldg(from);
}

template <typename W>
void __stcs(W* to, W word) {
  require_aligned(to);
  std::memcpy(static_cast<void*>(to), &word, sizeof(W));
}

struct __half {
  uint16_t bits;
};
struct __nv_bfloat16 {
  uint16_t bits;
};

inline float float_of_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline uint32_t bits_of_float(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline float __bfloat162float(__nv_bfloat16 value) { return float_of_bits(static_cast<uint32_t>(value.bits) << 16); }

inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  if (std::isnan(value)) return {0x7fff};
  const uint32_t bits = bits_of_float(value);
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

inline float __half2float(__half value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t exponent = (value.bits >> 10) & 0x1fu;
  const uint32_t mantissa = value.bits & 0x3ffu;
  if (exponent == 0x1fu) return float_of_bits(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0) return float_of_bits(sign | ((exponent + 112u) << 23) | (mantissa << 13));
  const float magnitude = std::ldexp(static_cast<float>(mantissa), -24);
  return sign != 0 ? -magnitude : magnitude;
}

inline __half __float2half_rn(float value) {
  const uint32_t bits = bits_of_float(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const float magnitude = std::fabs(value);
  if (std::isnan(value)) return {0x7fff};
  if (magnitude >= 65520.0f) return {static_cast<uint16_t>(sign | 0x7c00u)};
  if (magnitude == 0.0f) return {sign};
  int exponent;
  std::frexp(magnitude, &exponent);
  const int last_place = (exponent - 1 < -14 ? -14 : exponent - 1) - 10;
  const auto units = static_cast<uint32_t>(std::nearbyint(std::ldexp(magnitude, -last_place)));
  const uint32_t encoded = (static_cast<uint32_t>(last_place + 24) << 10) + units;
  return {static_cast<uint16_t>(sign | encoded)};
}

// What a kernel must not rely on: the order of blocks and threads, and what shared memory held before a block.
struct Schedule {
  std::mt19937_64 random;
  std::vector<std::span<uint8_t>> shared_memory;  // all there is
  int missing_barrier = 0;                        // in which line there is one at which no thread waits; 0 for none

  std::vector<unsigned int> order(size_t count) {
    std::vector<unsigned int> numbers(count);
    std::iota(numbers.begin(), numbers.end(), 0u);
    std::shuffle(numbers.begin(), numbers.end(), random);
    return numbers;
  }

  void poison() {
    for (const std::span<uint8_t> memory : shared_memory) {
      std::memset(memory.data(), static_cast<int>(random() & 0xff), memory.size());
    }
  }
};
inline Schedule schedule;

// The threads of one block, each with a stack of its own.
class HostBlock {
 public:
  explicit HostBlock(unsigned int threads) : threads_(threads) {
    for (Thread& thread : threads_) thread.stack.resize(kStackBytes);
  }

  // Runs body(data) in every thread. A barrier that some threads do not reach, where a GPU would hang, ends the
  // process.
  void run(void (*body)(const void*), const void* data) {
    current_ = this;
    body_ = body;
    data_ = data;
    for (Thread& thread : threads_) start(thread);
    const size_t count = threads_.size();
    for (size_t waiting = count; waiting != 0;) {
      waiting = 0;
      for (const unsigned int thread : schedule.order(count)) waiting += resume(thread) ? 1 : 0;
      if (waiting != 0 && waiting != count) {
        std::fprintf(stderr, "%zu of %zu threads reached a barrier\n", waiting, count);
        std::abort();
      }
    }
    current_ = nullptr;
  }

  static void wait(int line) {
    if (line == schedule.missing_barrier) return;
    Thread& thread = current_->threads_[threadIdx.x];
    swapcontext(&thread.context, &current_->scheduler_);
  }

 private:
  static constexpr size_t kStackBytes = 1 << 18;

  struct Thread {
    ucontext_t context;
    std::vector<unsigned char> stack;
    bool done;
  };

  void start(Thread& thread) {
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.data();
    thread.context.uc_stack.ss_size = thread.stack.size();
    thread.context.uc_link = &scheduler_;
    thread.done = false;
    makecontext(&thread.context, &HostBlock::enter, 0);
  }

  static void enter() {
    current_->body_(current_->data_);
    current_->threads_[threadIdx.x].done = true;
  }

  // Whether the thread waits at a barrier afterwards.
  bool resume(unsigned int index) {
    threadIdx.x = index;
    swapcontext(&scheduler_, &threads_[index].context);
    return !threads_[index].done;
  }

  static inline HostBlock* current_ = nullptr;
  std::vector<Thread> threads_;
  ucontext_t scheduler_;
  void (*body_)(const void*) = nullptr;
  const void* data_ = nullptr;
};

#define __syncthreads() HostBlock::wait(__LINE__)

// Runs a kernel over a grid of `blocks` blocks of `threads` threads. Without barriers a thread needs no stack of its
// own, which is much faster.
template <typename Parameters>
void run_on_host(void (*kernel)(Parameters), const Parameters& parameters, unsigned int blocks, unsigned int threads,
                 bool barriers) {
  gridDim.x = blocks;
  blockDim.x = threads;
  const auto call = [&] { kernel(parameters); };
  HostBlock block(barriers ? threads : 0);
  for (const unsigned int number : schedule.order(blocks)) {
    blockIdx.x = number;
    if (barriers) {
      schedule.poison();
      block.run([](const void* data) { (*static_cast<const decltype(call)*>(data))(); }, &call);
    } else {
      for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x) call();
    }
  }
}

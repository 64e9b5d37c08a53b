// Short vectors for the CPU loops, on the compiler's own vector types: one source for every instruction set.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

// Each instruction set compiles the loops in a namespace of its own, so that the linker cannot merge their functions.
#if !defined(DECONV_CPU_CAPABILITY)
#define DECONV_CPU_CAPABILITY baseline
#endif

namespace deconv_kernels::DECONV_CPU_CAPABILITY {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <typename T, int N>
struct VectorOf {
  typedef T Type __attribute__((vector_size(N * sizeof(T)), aligned(alignof(T)), may_alias));
};
template <typename T, int N>
using Vector = typename VectorOf<T, N>::Type;

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// The type in which elements are compared and summed, and the integer of the same width.
template <typename T>
using Compute = std::conditional_t<std::is_same_v<T, double>, double, float>;
template <typename T>
using Code = std::conditional_t<std::is_same_v<T, double>, int64_t, int32_t>;

template <typename T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(Compute<T>));

// Vector types are declared with the alignment of their elements and may alias, so this is no stricter than memcpy,
// which the compiler takes apart into halves where vectors have 32 bytes.
template <typename V, typename T>
inline V load_unaligned(const T* from) {
  return *reinterpret_cast<const V*>(from);
}

template <typename V, typename T>
inline void store_unaligned(T* to, V vector) {
  *reinterpret_cast<V*>(to) = vector;
}

// Integers of another width. The compiler converts by a factor of two in one step and by larger factors lane by lane,
// so those take several steps or the processor's own instruction.
template <typename To, typename From, int N>
inline Vector<To, N> convert(Vector<From, N> from) {
#if defined(__AVX512F__)
  constexpr bool kToInt = std::is_same_v<To, int32_t> || std::is_same_v<To, uint32_t>;
  if constexpr (N == 16 && kToInt && std::is_same_v<From, uint8_t>) {
    return (Vector<To, N>)_mm512_maskz_cvtepu8_epi32(0xffff, (__m128i)from);
  } else if constexpr (N == 16 && kToInt && std::is_same_v<From, uint16_t>) {
    return (Vector<To, N>)_mm512_maskz_cvtepu16_epi32(0xffff, (__m256i)from);
  } else if constexpr (N == 8 && std::is_same_v<To, int64_t> && std::is_same_v<From, uint8_t>) {
    return (Vector<To, N>)_mm512_maskz_cvtepu8_epi64(0xff, _mm_cvtsi64_si128((int64_t)from));
  } else if constexpr (N == 16 && sizeof(To) == 1 && sizeof(From) == 4) {
    return (Vector<To, N>)_mm512_maskz_cvtepi32_epi8(0xffff, (__m512i)from);
  } else if constexpr (N == 16 && sizeof(To) == 2 && sizeof(From) == 4) {
    return (Vector<To, N>)_mm512_maskz_cvtepi32_epi16(0xffff, (__m512i)from);
  } else if constexpr (N == 8 && sizeof(To) == 1 && sizeof(From) == 8) {
    return (Vector<To, N>)_mm_cvtsi128_si64(_mm512_maskz_cvtepi64_epi8(0xff, (__m512i)from));
  } else
#endif
#if defined(__AVX2__)
      if constexpr (N == 8 && sizeof(To) == 4 && std::is_same_v<From, uint8_t>) {
    return (Vector<To, N>)_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((int64_t)from));
  } else if constexpr (N == 8 && sizeof(To) == 4 && std::is_same_v<From, uint16_t>) {
    return (Vector<To, N>)_mm256_cvtepu16_epi32((__m128i)from);
  } else
#endif
      if constexpr (sizeof(To) > 2 * sizeof(From)) {
    using Step = std::conditional_t<sizeof(From) == 1, std::conditional_t<std::is_signed_v<From>, int16_t, uint16_t>,
                                    std::conditional_t<std::is_signed_v<From>, int32_t, uint32_t>>;
    return convert<To, Step, N>(__builtin_convertvector(from, Vector<Step, N>));
  } else if constexpr (2 * sizeof(To) < sizeof(From)) {
    using Step = std::conditional_t<sizeof(From) == 8, int32_t, int16_t>;
    return convert<To, Step, N>(__builtin_convertvector(from, Vector<Step, N>));
  } else {
    return __builtin_convertvector(from, Vector<To, N>);
  }
}

template <int N>
inline Vector<float, N> widen(Vector<uint16_t, N> bits, BFloat16) {
  const Vector<uint32_t, N> wide = convert<uint32_t, uint16_t, N>(bits) << 16;
  return reinterpret_cast<Vector<float, N>>(wide);
}

template <int N>
inline Vector<uint16_t, N> narrow(Vector<float, N> values, BFloat16) {
  const Vector<uint32_t, N> bits = reinterpret_cast<Vector<uint32_t, N>>(values);
  const Vector<uint32_t, N> rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const Vector<uint32_t, N> result = values == values ? rounded : Vector<uint32_t, N>{} + 0x7fc0u;
  return convert<uint16_t, uint32_t, N>(result);
}

inline float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t magnitude = half & 0x7fffu;
  uint32_t bits;
  if (magnitude >= 0x7c00u) {
    bits = sign | 0x7f800000u | (magnitude & 0x3ffu) << 13;
  } else if (magnitude >= 0x400u) {
    bits = sign | ((magnitude << 13) + (112u << 23));
  } else {
    const float subnormal = static_cast<float>(magnitude) * 0x1p-24f;
    std::memcpy(&bits, &subnormal, sizeof(bits));
    bits |= sign;
  }
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline uint16_t float_to_half(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {
    // Adding one half moves the subnormal's rounding to the end of the float's mantissa.
    float shifted;
    std::memcpy(&shifted, &magnitude, sizeof(shifted));
    shifted += 0.5f;
    uint32_t rounded;
    std::memcpy(&rounded, &shifted, sizeof(rounded));
    return static_cast<uint16_t>(sign | (rounded - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u) - (112u << 23);
  return static_cast<uint16_t>(sign | rounded >> 13);
}

template <int N>
inline Vector<float, N> widen(Vector<uint16_t, N> bits, Half) {
#if defined(__AVX512F__)
  if constexpr (N == 16) return (Vector<float, N>)_mm512_maskz_cvtph_ps(0xffff, (__m256i)bits);
#endif
#if defined(__F16C__)
  if constexpr (N == 8) return (Vector<float, N>)_mm256_cvtph_ps((__m128i)bits);
#endif
  Vector<float, N> values{};
  for (int lane = 0; lane < N; ++lane) values[lane] = half_to_float(bits[lane]);
  return values;
}

template <int N>
inline Vector<uint16_t, N> narrow(Vector<float, N> values, Half) {
#if defined(__AVX512F__)
  if constexpr (N == 16) {
    return (Vector<uint16_t, N>)_mm512_maskz_cvtps_ph(0xffff, (__m512)values,
                                                      _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
#endif
#if defined(__F16C__)
  if constexpr (N == 8) {
    return (Vector<uint16_t, N>)_mm256_cvtps_ph((__m256)values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
#endif
  Vector<uint16_t, N> bits{};
  for (int lane = 0; lane < N; ++lane) bits[lane] = float_to_half(values[lane]);
  return bits;
}

// N consecutive elements in their compute type.
template <typename T, int N>
inline Vector<Compute<T>, N> load(const T* from) {
  if constexpr (std::is_same_v<T, Compute<T>>) {
    return load_unaligned<Vector<T, N>>(from);
  } else {
    return widen<N>(load_unaligned<Vector<uint16_t, N>>(from), T{});
  }
}

template <typename T, int N>
inline void store(T* to, Vector<Compute<T>, N> values) {
  if constexpr (std::is_same_v<T, Compute<T>>) {
    store_unaligned(to, values);
  } else {
    store_unaligned(to, narrow<N>(values, T{}));
  }
}

// Stores past the caches where the processor can: whole vectors, aligned to 32 bytes at least. `finish_streams` makes
// that visible to others.
template <typename T, int N>
inline void stream(T* to, Vector<Compute<T>, N> values) {
#if defined(__AVX2__)
  if constexpr (std::is_same_v<T, Compute<T>> && N * sizeof(T) == kVectorBytes) {
    const uintptr_t address = reinterpret_cast<uintptr_t>(to);
#if defined(__AVX512F__)
    if (address % 64 == 0) return _mm512_stream_si512(reinterpret_cast<__m512i*>(to), (__m512i)values);
    if (address % 32 == 0) {
      _mm256_stream_si256(reinterpret_cast<__m256i*>(to), _mm512_maskz_extracti64x4_epi64(0xf, (__m512i)values, 0));
      _mm256_stream_si256(reinterpret_cast<__m256i*>(to) + 1, _mm512_maskz_extracti64x4_epi64(0xf, (__m512i)values, 1));
      return;
    }
#else
    if (address % 32 == 0) return _mm256_stream_si256(reinterpret_cast<__m256i*>(to), (__m256i)values);
#endif
  }
#endif
  store<T, N>(to, values);
}

inline void finish_streams() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}

// Consecutive elements that are formed in cache and written past it, one whole line after the other. The lines at both
// ends, which others may write to as well, are written as usual.
template <typename T>
class StreamedRows {
 public:
  // `to`: where the first element belongs; `most`: elements written at a time, at most.
  StreamedRows(T* to, int64_t most)
      : skipped_(static_cast<int64_t>(reinterpret_cast<uintptr_t>(to) % kLineBytes / sizeof(T))),
        held_(skipped_),
        line_(to - skipped_),
        memory_(new T[most + kLine]) {}
  ~StreamedRows() { delete[] memory_; }
  StreamedRows(const StreamedRows&) = delete;
  StreamedRows& operator=(const StreamedRows&) = delete;

  // Where to form the next elements.
  T* next() { return memory_ + held_; }

  // Writes `count` elements formed there, but for those of an unfinished line.
  void write(int64_t count) {
    held_ += count;
    int64_t at = 0;
    for (; at + kLine <= held_; at += kLine, line_ += kLine) {
      if (skipped_ > 0) {
        copy(skipped_, kLine);
        skipped_ = 0;
        continue;
      }
      constexpr int N = kVectorBytes / sizeof(float);
      for (int64_t byte = 0; byte < kLineBytes; byte += kVectorBytes) {
        // Bits go through unchanged, whatever they stand for.
        const auto bits = load_unaligned<Vector<float, N>>(reinterpret_cast<const char*>(memory_ + at) + byte);
        stream<float, N>(reinterpret_cast<float*>(reinterpret_cast<char*>(line_) + byte), bits);
      }
    }
    held_ -= at;
    for (int64_t i = 0; i < held_; ++i) memory_[i] = memory_[at + i];
  }

  // Writes the unfinished line.
  void finish() { copy(skipped_, held_); }

 private:
  static constexpr int64_t kLineBytes = 64;
  static constexpr int64_t kLine = kLineBytes / sizeof(T);

  void copy(int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) line_[i] = memory_[i];
  }

  int64_t skipped_;  // elements at the start of the line at hand that are not ours
  int64_t held_;     // elements of the line at hand, those included
  T* line_;
  T* memory_;
};

// The values as the element type holds them.
template <typename T, int N>
inline Vector<Compute<T>, N> round_to(Vector<Compute<T>, N> values) {
  if constexpr (std::is_same_v<T, Compute<T>>) {
    return values;
  } else {
    return widen<N>(narrow<N>(values, T{}), T{});
  }
}

template <typename T>
inline Compute<T> load_one(const T* from) {
  if constexpr (std::is_same_v<T, Compute<T>>) {
    return *from;
  } else if constexpr (std::is_same_v<T, Half>) {
    return half_to_float(from->bits);
  } else {
    const uint32_t bits = static_cast<uint32_t>(from->bits) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
  }
}

template <typename T>
inline void store_one(T* to, Compute<T> value) {
  if constexpr (std::is_same_v<T, Compute<T>>) {
    *to = value;
  } else if constexpr (std::is_same_v<T, Half>) {
    to->bits = float_to_half(value);
  } else {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    to->bits = value == value ? static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16) : 0x7fc0u;
  }
}

// One element in every lane, from memory: unlike a register, that takes nothing from the arithmetic units.
template <typename T, int N>
inline Vector<T, N> broadcast(const T* from) {
#if defined(__AVX512F__)
  if constexpr (N * sizeof(T) == 64 && std::is_same_v<T, float>) {
    return (Vector<T, N>)_mm512_set1_ps(*from);
  } else if constexpr (N * sizeof(T) == 64 && std::is_same_v<T, double>) {
    return (Vector<T, N>)_mm512_set1_pd(*from);
  } else
#endif
#if defined(__AVX2__)
      if constexpr (N * sizeof(T) == 32 && std::is_same_v<T, float>) {
    return (Vector<T, N>)_mm256_broadcast_ss(from);
  } else if constexpr (N * sizeof(T) == 32 && std::is_same_v<T, double>) {
    return (Vector<T, N>)_mm256_broadcast_sd(from);
  } else
#endif
  {
    return Vector<T, N>{} + *from;
  }
}

// A pointer that the compiler does not split into base and index again: arithmetic on memory with two address registers
// takes two steps.
template <typename T>
inline const T* as_one_register(const T* pointer) {
  asm("" : "+r"(pointer));
  return pointer;
}

// The vector, loaded at once. The compiler makes a masked load of one that is used under a mask alone, which waits for
// its mask, and so for what that was loaded from.
template <typename V>
inline V as_loaded(V vector) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) >= 16) asm("" : "+v"(vector));
#endif
  return vector;
}

// a * b + c, rounded once where the processor can.
template <typename T, int N>
inline Vector<T, N> multiply_add(Vector<T, N> a, Vector<T, N> b, Vector<T, N> c) {
#if defined(__AVX512F__)
  if constexpr (N * sizeof(T) == 64 && std::is_same_v<T, float>) {
    return (Vector<T, N>)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
  } else if constexpr (N * sizeof(T) == 64 && std::is_same_v<T, double>) {
    return (Vector<T, N>)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
  } else
#endif
#if defined(__FMA__)
      if constexpr (N * sizeof(T) == 32 && std::is_same_v<T, float>) {
    return (Vector<T, N>)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
  } else if constexpr (N * sizeof(T) == 32 && std::is_same_v<T, double>) {
    return (Vector<T, N>)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
  } else
#endif
  {
    return a * b + c;
  }
}

// Vectors of partial sums, kPartial of each, become half as many of half as many partial sums.
template <int kPartial, typename V, int... I>
inline V add_halves(V low, V high, std::integer_sequence<int, I...>) {
  constexpr int kHalf = kPartial / 2;
  return __builtin_shufflevector(low, high, (I / kHalf * kPartial + I % kHalf)...) +
         __builtin_shufflevector(low, high, (I / kHalf * kPartial + I % kHalf + kHalf)...);
}

// The sum of the lanes of every vector, halves first.
template <typename T, int N, int kPartial = N, size_t kCount, size_t kResults>
inline void sum_lanes(const Vector<T, N> (&sums)[kCount], T (&results)[kResults]) {
  if constexpr (kPartial == 1) {
    for (size_t i = 0; i < kResults; ++i) results[i] = sums[i / N][i % N];
  } else {
    Vector<T, N> halved[(kCount + 1) / 2];
#pragma GCC unroll 8
    for (size_t i = 0; i < kCount; i += 2) {
      const Vector<T, N> next = i + 1 < kCount ? sums[i + 1] : sums[i];
      halved[i / 2] = add_halves<kPartial>(sums[i], next, std::make_integer_sequence<int, N>{});
    }
    sum_lanes<T, N, kPartial / 2>(halved, results);
  }
}

template <typename V, int... I>
inline V even_lanes(V low, V high, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(low, high, (2 * I)...);
}
template <typename V, int... I>
inline V odd_lanes(V low, V high, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(low, high, (2 * I + 1)...);
}
template <typename V, int... I>
inline V even_then_odd_lanes(V low, V high, std::integer_sequence<int, I...>) {
  constexpr int kCount = sizeof...(I);
  return __builtin_shufflevector(low, high, (2 * I < kCount ? 2 * I : 2 * I + 1)...);
}
// Every lane moved up by one; lane 0 is that of `first`.
template <typename V, int... I>
inline V shifted_lanes(V values, V first, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(first, values, (I == 0 ? 0 : static_cast<int>(sizeof...(I)) + I - 1)...);
}
template <typename V, int... I>
inline V interleave_low(V even, V odd, std::integer_sequence<int, I...>) {
  constexpr int kCount = sizeof...(I);
  return __builtin_shufflevector(even, odd, (I / 2 + (I % 2) * kCount)...);
}
template <typename V, int... I>
inline V interleave_high(V even, V odd, std::integer_sequence<int, I...>) {
  constexpr int kCount = sizeof...(I);
  return __builtin_shufflevector(even, odd, (kCount / 2 + I / 2 + (I % 2) * kCount)...);
}

// Stores even[0], odd[0], even[1], odd[1], ...
template <typename T, int N>
inline void store_interleaved(T* to, Vector<Compute<T>, N> even, Vector<Compute<T>, N> odd) {
  if constexpr (N == 1) {
    store_one(to, even[0]);
    store_one(to + 1, odd[0]);
  } else {
    constexpr auto kAll = std::make_integer_sequence<int, N>{};
    store<T, N>(to, interleave_low(even, odd, kAll));
    store<T, N>(to + N, interleave_high(even, odd, kAll));
  }
}

// N elements that lie kStride apart (`stride` apart where kStride is 0). Nothing beyond the last of them is read.
template <typename T, int N, int kStride>
inline Vector<Compute<T>, N> load_strided(const T* from, int64_t stride) {
  if constexpr (kStride == 1) {
    return load<T, N>(from);
  } else if constexpr (kStride == 2) {
    return even_then_odd_lanes(load<T, N>(from), load<T, N>(from + N - 1), std::make_integer_sequence<int, N>{});
  } else {
    Vector<Compute<T>, N> values{};
    for (int lane = 0; lane < N; ++lane) values[lane] = load_one(from + lane * stride);
    return values;
  }
}

// Asks for the cache lines that a walk in steps of kElements elements needs a page from here: short rows keep the
// processor's own prefetcher from running that far ahead. Touching memory beyond a buffer this way is harmless.
template <int kElements, bool kForWriting = false, typename T>
inline void prefetch_ahead(const T* from) {
  constexpr int kLine = 64;
  const char* ahead = reinterpret_cast<const char*>(from) + 4096;
  for (int byte = 0; byte < kElements * static_cast<int>(sizeof(T)); byte += kLine) {
    __builtin_prefetch(ahead + byte, kForWriting);
  }
}

// Calls body(std::integral_constant<int, N>, position) so that [begin, end) is covered: whole vectors first, the last
// one shifted back over its neighbour, narrower vectors where the range is shorter than one.
template <int N, typename Body>
inline void for_each_vector(int64_t begin, int64_t end, const Body& body) {
  if constexpr (N == 1) {
    for (int64_t at = begin; at < end; ++at) body(std::integral_constant<int, 1>{}, at);
  } else {
    if (end - begin < N) return for_each_vector<N / 2>(begin, end, body);
    int64_t at = begin;
    for (; at + N <= end; at += N) body(std::integral_constant<int, N>{}, at);
    if (at < end) body(std::integral_constant<int, N>{}, end - N);
  }
}

}  // namespace deconv_kernels::DECONV_CPU_CAPABILITY

// Few output channels: every output gathers for itself.
#pragma once

#include "write.h"

namespace deconv_kernels::DECONV_CPU_CAPABILITY {

// kAtOnce outputs from (z, y, x) of a unit's full transposed convolution on, all output channels of each. With kInside
// the signal has a value at every column they read.
template <typename T, bool kRelu, bool kInside, int kOutputs, int kAtOnce>
inline void gather(const BackprojectParams& p, const T* input, int64_t z, int64_t y, int64_t x,
                   Compute<T> (&result)[kAtOnce * kOutputs]) {
  using C = Compute<T>;
  constexpr int N = kLanes<T>, kTaps = 3;
  using V = Vector<C, N>;
  constexpr int64_t kLineOfTaps = kTaps * kOutputs * kLine<C>;
  V sums[kAtOnce * kOutputs] = {};
  for (int64_t tap_plane = 0; tap_plane < p.kernel.z; ++tap_plane) {
    const int64_t plane = plane_sent(p, p.depth, tap_plane, z);
    if (plane < 0) continue;
    const int64_t last = smaller(y, p.kernel.y - 1);
    for (int64_t tap = larger(0, y - p.height + 1); tap <= last; ++tap) {
      const T* row = input + (plane * p.height + y - tap) * p.width * p.channels;
      const bool is_new = tap_plane == 0 && tap == 0;  // no row of outputs before has read it
      const C* line =
          static_cast<const C*>(p.weight.data) + (tap_plane * p.kernel.y + tap) * (p.channels / kLine<C>)*kLineOfTaps;
      for (int64_t channel = 0; channel < p.channels; channel += N) {
        const C* weights = as_one_register(line + channel / kLine<C> * kLineOfTaps + channel % kLine<C>);
        V values[kAtOnce + kTaps - 1];
#pragma GCC unroll 10
        for (int i = 0; i < kAtOnce + kTaps - 1; ++i) {
          const int64_t column = x + i - (kTaps - 1);
          if (kInside || (column >= 0 && column < p.width)) {
            const T* from = row + column * p.channels + channel;
            if (kInside && is_new && i >= kTaps - 1) prefetch_ahead<N>(from);
            values[i] = load<T, N>(from);
            if constexpr (kRelu) values[i] = values[i] <= V{} ? V{} : values[i];
          } else {
            values[i] = V{};
          }
        }
#pragma GCC unroll 3
        for (int t = 0; t < kTaps; ++t) {
#pragma GCC unroll 4
          for (int output = 0; output < kOutputs; ++output) {
            const V weight = load_unaligned<V>(weights + (t * kOutputs + output) * kLine<C>);
#pragma GCC unroll 8
            for (int i = 0; i < kAtOnce; ++i) {
              V& sum = sums[i * kOutputs + output];
              sum = multiply_add<C, N>(values[i + kTaps - 1 - t], weight, sum);
            }
          }
        }
      }
    }
  }
  sum_lanes<C, N>(sums, result);
}

template <typename T, bool kRelu, int kOutputs>
void gather_rows(const BackprojectParams& p, int64_t begin, int64_t end) {
  using C = Compute<T>;
  constexpr int kSums = kVectorBytes == 64 ? 16 : 8;  // as many as there are registers for
  constexpr int kAtOnce = kOutputs == 1 ? kSums / 2 : kSums / kOutputs;
  const int64_t map = p.size.z * p.size.y * p.size.x;
  const int64_t pitch = p.channels_last ? 1 : map, step = p.channels_last ? kOutputs : 1;
  for (int64_t number = begin; number < end; ++number) {
    const int64_t line = number % (p.size.z * p.size.y), unit = number / (p.size.z * p.size.y);
    const int64_t plane = line / p.size.y, row = line % p.size.y;
    const ReachedBox box(p, unit);
    const bool has_row = box.has_row(plane, row);
    const int64_t first = has_row ? box.columns.begin : 0, last = has_row ? box.columns.end : 0;
    const T* input = static_cast<const T*>(p.input) + unit * p.depth * p.height * p.width * p.channels;
    T* to = static_cast<T*>(p.output) + unit * map * kOutputs + line * p.size.x * step;
    for (int output = 0; output < kOutputs; ++output) {
      for (int64_t x = 0; x < first; ++x) store_one(to + output * pitch + x * step, C{});
      for (int64_t x = last; x < p.size.x; ++x) store_one(to + output * pitch + x * step, C{});
    }
    const int64_t z = plane + p.begin.z, y = row + p.begin.y;
    for (int64_t at = first; at < last;) {
      const int64_t x = at + p.begin.x;
      if (at + kAtOnce <= last && x >= 2 && x + kAtOnce <= p.width) {
        C result[kAtOnce * kOutputs];
        gather<T, kRelu, true, kOutputs, kAtOnce>(p, input, z, y, x, result);
        for (int i = 0; i < kAtOnce; ++i) {
          for (int output = 0; output < kOutputs; ++output) {
            store_one(to + output * pitch + (at + i) * step, result[i * kOutputs + output]);
          }
        }
        at += kAtOnce;
      } else {
        C result[kOutputs];
        gather<T, kRelu, false, kOutputs, 1>(p, input, z, y, x, result);
        for (int output = 0; output < kOutputs; ++output) {
          store_one(to + output * pitch + at * step, result[output]);
        }
        ++at;
      }
    }
  }
}

template <typename T, bool kRelu>
void gather_rows(const BackprojectParams& p, int64_t begin, int64_t end) {
  switch (p.output_channels) {
    case 1:
      return gather_rows<T, kRelu, 1>(p, begin, end);
    case 2:
      return gather_rows<T, kRelu, 2>(p, begin, end);
    case 3:
      return gather_rows<T, kRelu, 3>(p, begin, end);
    default:
      return gather_rows<T, kRelu, kGatheredOutputs>(p, begin, end);
  }
}

// Few output channels, as at the images: every output reads all it needs, whether zero or not, because there is little
// to skip and nothing to list.
template <typename T>
void gather_signal_rows(const BackprojectParams& p, int64_t begin, int64_t end) {
  return p.relu ? gather_rows<T, true>(p, begin, end) : gather_rows<T, false>(p, begin, end);
}

}  // namespace deconv_kernels::DECONV_CPU_CAPABILITY

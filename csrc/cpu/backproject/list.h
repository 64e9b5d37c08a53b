// Listing: for every position and block of channels, which channels are not zero, and their values.
#pragma once

#include "../vector.h"
#include "tasks.h"

namespace deconv_kernels::DECONV_CPU_CAPABILITY {

// A position of the signal: its channels, and with kPooled their switches.
template <typename T>
struct Listed {
  const T* values;
  const uint8_t* switches;
};

// Writes to `to` those of the values [0, count) that are not zero (with kRelu: not below or equal to zero) and, with
// kPooled, whose switch is `tap`; returns a bit for each of them. Up to kListedChannels values may be written over.
template <typename T, bool kRelu, bool kPooled>
inline uint64_t list_position(Listed<T> from, int64_t count, uint8_t tap, Compute<T>* to) {
  using C = Compute<T>;
  uint64_t mask = 0;
  int64_t channel = 0;
#if defined(__AVX512F__)
  if constexpr (sizeof(C) == 4) {
    for (; channel + 16 <= count; channel += 16) {
      const __m512 vector = (__m512)load<T, 16>(from.values + channel);
      const __m512 zero = _mm512_setzero_ps();
      __mmask16 taken =
          kRelu ? _mm512_cmp_ps_mask(vector, zero, _CMP_NLE_UQ) : _mm512_cmp_ps_mask(vector, zero, _CMP_NEQ_UQ);
      if constexpr (kPooled) {
        const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from.switches + channel));
        taken &= _mm_cmpeq_epi8_mask(codes, _mm_set1_epi8(static_cast<char>(tap)));
      }
      _mm512_storeu_ps(to, _mm512_maskz_compress_ps(taken, vector));
      to += __builtin_popcount(taken);
      mask |= uint64_t{taken} << channel;
    }
  }
#endif
  for (; channel < count; ++channel) {
    const C value = load_one(from.values + channel);
    *to = value;
    bool taken = kRelu ? !(value <= C{}) : value != C{};
    if constexpr (kPooled) taken = taken && from.switches[channel] == tap;
    to += taken;
    mask |= uint64_t{taken} << channel;
  }
  return mask;
}

// Lists the rows [begin, end) of cells, counted over all blocks of all units.
template <typename T, bool kRelu, bool kPooled>
void list_rows(const BackprojectParams& p, int64_t begin, int64_t end) {
  const SignalLists& lists = p.lists;
  const int64_t channels = p.channels / p.groups;
  const int64_t blocks_of_group = lists.blocks / p.groups;
  const int64_t positions = lists.side * lists.side;
  const T* input = static_cast<const T*>(p.input);
  const uint8_t* switches = static_cast<const uint8_t*>(p.switches);
  for (int64_t number = begin; number < end; ++number) {
    const int64_t row = number % lists.rows;
    const int64_t plane = number / lists.rows % lists.planes;
    const int64_t block = number / lists.rows / lists.planes % lists.blocks;
    const int64_t unit = number / lists.rows / lists.planes / lists.blocks;
    const int64_t within = block % blocks_of_group * kListedChannels;
    const int64_t first = block / blocks_of_group * channels + within;
    const int64_t count = channels - within < kListedChannels ? channels - within : kListedChannels;
    const int64_t image = kPooled ? p.image[unit] : 0;
    const PerAxis origin = kPooled ? origin_of(p, unit) : PerAxis{};
    // The plane of pooled values, and which plane of its windows this one is.
    const int64_t z = kPooled ? plane / p.pool_planes : plane;
    const int64_t first_tap = kPooled ? plane % p.pool_planes * positions : 0;
    uint64_t* mask = lists.masks + number * lists.columns * positions;
    Compute<T>* const values = static_cast<Compute<T>*>(lists.values) + number * lists.capacity;
    int64_t entries = 0;
    for (int64_t column = 0; column < lists.columns; ++column) {
      for (int64_t position = 0; position < positions; ++position, ++mask) {
        const int64_t y = kPooled ? row : row * lists.side + position / lists.side;
        const int64_t x = kPooled ? column : column * lists.side + position % lists.side;
        *mask = 0;
        if (y < p.height && x < p.width) {
          Listed<T> from{input + (((unit * p.depth + z) * p.height + y) * p.width + x) * p.channels + first, nullptr};
          bool inside = true;
          if constexpr (kPooled) {
            // Compared this way round, no origin overflows.
            inside = origin.z >= -z && origin.z < p.map.z - z && origin.y >= -y && origin.y < p.map.y - y &&
                     origin.x >= -x && origin.x < p.map.x - x;
            if (inside) {
              const int64_t pixel =
                  ((image * p.map.z + origin.z + z) * p.map.y + origin.y + y) * p.map.x + origin.x + x;
              from.switches = switches + pixel * p.channels + first;
            }
          }
          if (inside) {
            const auto code = static_cast<uint8_t>(first_tap + position);
            *mask = list_position<T, kRelu, kPooled>(from, count, code, values + entries);
            entries += __builtin_popcountll(*mask);
          }
        }
      }
    }
    lists.entries[number] = entries;
  }
}

template <typename T>
void list_signal_rows(const BackprojectParams& p, int64_t begin, int64_t end) {
  if (p.switches != nullptr) {
    return p.relu ? list_rows<T, true, true>(p, begin, end) : list_rows<T, false, true>(p, begin, end);
  }
  return p.relu ? list_rows<T, true, false>(p, begin, end) : list_rows<T, false, false>(p, begin, end);
}

}  // namespace deconv_kernels::DECONV_CPU_CAPABILITY

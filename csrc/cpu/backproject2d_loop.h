// Transposed convolution of windows that are mostly zero, as unpooling and rectification leave them, in two passes:
// - listing: for every position and block of channels, the channels that are not zero, and their values;
// - sending: every listed value, times its weights, to the outputs it reaches. Weights of one block of channels and
//   outputs stay in the first cache for all positions; outputs gather in registers, then in a band of rows in cache.
// Whatever is computed together, an output is summed in one order: blocks of channels, then cells, then positions.
#pragma once

#include "backproject2d_tasks.h"
#include "kernels.h"
#include "vector.h"

namespace deconv_kernels::DECONV_CPU_CAPABILITY {

// Elements of a line of packed weights.
template <typename C>
constexpr int kLine = static_cast<int>(kLineBytes / sizeof(C));

// A position of the signal: its channels, and with kPooled their switches.
template <typename T>
struct Listed {
  const T* values;
  const uint8_t* switches;
};

// Appends the channels [0, count) whose value is not zero (with kRelu: not below or equal to zero) and, with kPooled,
// whose switch is `tap`; returns the new end. Up to kListedChannels entries beyond the end may be overwritten.
template <typename T, bool kRelu, bool kPooled>
inline int64_t append(const SignalLists& lists, int64_t at, Listed<T> from, int64_t count, uint8_t tap) {
  using C = Compute<T>;
  C* values = static_cast<C*>(lists.values);
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
      const __m512i first = _mm512_set1_epi32(static_cast<int>(channel));
      const __m512i numbers =
          _mm512_add_epi32(first, _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
      _mm512_storeu_ps(values + at, _mm512_maskz_compress_ps(taken, vector));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(lists.channels + at),
                       _mm512_maskz_cvtepi32_epi8(0xffff, _mm512_maskz_compress_epi32(taken, numbers)));
      at += __builtin_popcount(taken);
    }
  }
#endif
  for (; channel < count; ++channel) {
    const C value = load_one(from.values + channel);
    values[at] = value;
    lists.channels[at] = static_cast<uint8_t>(channel);
    bool taken = kRelu ? !(value <= C{}) : value != C{};
    if constexpr (kPooled) taken = taken && from.switches[channel] == tap;
    at += taken;
  }
  return at;
}

// Lists the rows [begin, end) of cells, counted over all blocks of all units.
template <typename T, bool kRelu, bool kPooled>
void list_rows(const Backproject2dParams& p, int64_t begin, int64_t end) {
  const SignalLists& lists = p.lists;
  const int64_t channels = p.channels / p.groups;
  const int64_t blocks_of_group = lists.blocks / p.groups;
  const int64_t positions = lists.side * lists.side;
  const T* input = static_cast<const T*>(p.input);
  const uint8_t* switches = static_cast<const uint8_t*>(p.switches);
  for (int64_t number = begin; number < end; ++number) {
    const int64_t row = number % lists.rows;
    const int64_t block = number / lists.rows % lists.blocks;
    const int64_t unit = number / lists.rows / lists.blocks;
    const int64_t within = block % blocks_of_group * kListedChannels;
    const int64_t first = block / blocks_of_group * channels + within;
    const int64_t count = channels - within < kListedChannels ? channels - within : kListedChannels;
    const int64_t image = kPooled ? p.image[unit] : 0;
    const int64_t origin_y = kPooled ? p.origin[2 * unit] : 0;
    const int64_t origin_x = kPooled ? p.origin[2 * unit + 1] : 0;
    uint8_t* counts = lists.counts + number * lists.columns * positions;
    int64_t at = number * lists.capacity;
    for (int64_t column = 0; column < lists.columns; ++column) {
      for (int64_t position = 0; position < positions; ++position) {
        const int64_t y = kPooled ? row : row * lists.side + position / lists.side;
        const int64_t x = kPooled ? column : column * lists.side + position % lists.side;
        const int64_t before = at;
        if (y < p.height && x < p.width) {
          Listed<T> from{input + ((unit * p.height + y) * p.width + x) * p.channels + first, nullptr};
          bool inside = true;
          if constexpr (kPooled) {
            // Compared this way round, no origin overflows.
            inside = origin_y >= -y && origin_y < p.map.y - y && origin_x >= -x && origin_x < p.map.x - x;
            if (inside) {
              const int64_t pixel = (image * p.map.y + origin_y + y) * p.map.x + origin_x + x;
              from.switches = switches + pixel * p.channels + first;
            }
          }
          if (inside) at = append<T, kRelu, kPooled>(lists, at, from, count, static_cast<uint8_t>(position));
        }
        *counts++ = static_cast<uint8_t>(at - before);
      }
    }
    lists.entries[number] = at - number * lists.capacity;
  }
}

template <typename T>
void list_signal_rows(const Backproject2dParams& p, int64_t begin, int64_t end) {
  if (p.switches != nullptr) {
    return p.relu ? list_rows<T, true, true>(p, begin, end) : list_rows<T, false, true>(p, begin, end);
  }
  return p.relu ? list_rows<T, true, false>(p, begin, end) : list_rows<T, false, false>(p, begin, end);
}

// The rows or columns of a unit's result that can be other than zero: those within the full transposed convolution and
// on the map.
struct Reached {
  int64_t begin;
  int64_t end;
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

// Sums of some rows of one unit's full transposed convolution, for one block of output channels.
template <typename C>
struct HeldRows {
  C* sums;  // (rows, columns, wide)
  int64_t first_row;
  int64_t columns;
  int64_t wide;
};

// Writes rows [begin, end) of a unit's result, output channels [channel, channel + count).
template <typename T>
void write_rows(const Backproject2dParams& p, const HeldRows<Compute<T>>& held, int64_t unit, int64_t begin,
                int64_t end, int64_t channel, int64_t count) {
  using C = Compute<T>;
  constexpr int N = kLanes<T>;
  const int64_t* origin = p.origin + 2 * unit;
  const Reached rows = reached(origin[0], p.step.y, p.base.y, p.end.y, p.full.y, p.begin.y, p.size.y);
  const Reached columns = reached(origin[1], p.step.x, p.base.x, p.end.x, p.full.x, p.begin.x, p.size.x);
  T* output = static_cast<T*>(p.output);
  for (int64_t row = begin; row < end; ++row) {
    const bool has_row = row >= rows.begin && row < rows.end;
    const C* sums = held.sums + ((row + p.begin.y - held.first_row) * held.columns + p.begin.x) * held.wide;
    if (p.channels_last && count == p.output_channels && held.wide == count) {
      T* to = output + (unit * p.size.y + row) * p.size.x * count;
      const int64_t first = has_row ? columns.begin * count : 0, last = has_row ? columns.end * count : 0;
      std::memset(to, 0, static_cast<size_t>(first) * sizeof(T));
      for_each_vector<N>(first, last,
                         [&](auto width, int64_t at) { store<T, width>(to + at, load<C, width>(sums + at)); });
      std::memset(to + last, 0, static_cast<size_t>(p.size.x * count - last) * sizeof(T));
    } else if (p.channels_last) {
      T* to = output + (unit * p.size.y + row) * p.size.x * p.output_channels + channel;
      for (int64_t column = 0; column < p.size.x; ++column, to += p.output_channels) {
        const C* from = sums + column * held.wide;
        if (!has_row || column < columns.begin || column >= columns.end) {
          std::memset(to, 0, static_cast<size_t>(count) * sizeof(T));
          continue;
        }
        int64_t c = 0;
        if (p.streamed) {
          for (; c + N <= count; c += N) stream<T, N>(to + c, load<C, N>(from + c));
        }
        for (; c + N <= count; c += N) store<T, N>(to + c, load<C, N>(from + c));
        for (; c < count; ++c) store_one(to + c, from[c]);
      }
    } else {
      for (int64_t c = 0; c < count; ++c) {
        T* to = output + ((unit * p.output_channels + channel + c) * p.size.y + row) * p.size.x;
        std::memset(to, 0, static_cast<size_t>(p.size.x) * sizeof(T));
        if (!has_row) continue;
        for (int64_t x = columns.begin; x < columns.end; ++x) store_one(to + x, sums[x * held.wide + c]);
      }
    }
  }
}

// Sends one position of a cell of four: nine taps, into the 4 x 4 outputs that the cell reaches.
template <int kY, int kX, typename C, int N>
inline void send_in_tile(Vector<C, N> (&sums)[4][4], const C* values, const uint8_t* channels, int64_t count,
                         const C* weights) {
  constexpr int kTaps = 9;
  for (int64_t entry = 0; entry < count; ++entry) {
    const C* line = as_one_register(weights + static_cast<int64_t>(channels[entry]) * (kTaps * kLine<C>));
    const Vector<C, N> value = broadcast<C, N>(values + entry);
#pragma GCC unroll 3
    for (int y = 0; y < 3; ++y) {
#pragma GCC unroll 3
      for (int x = 0; x < 3; ++x) {
        const Vector<C, N> weight = load_unaligned<Vector<C, N>>(line + (y * 3 + x) * kLine<C>);
        sums[kY + y][kX + x] = multiply_add<C, N>(value, weight, sums[kY + y][kX + x]);
      }
    }
  }
}

// Sends a row of cells of four positions into four rows of outputs, `row` elements apart. Outputs that two neighbouring
// cells reach stay in registers between them.
template <typename C>
inline void send_row(const C* values, const uint8_t* channels, const uint8_t* counts, int64_t columns, const C* weights,
                     C* sums, int64_t row) {
  constexpr int N = kVectorBytes / static_cast<int>(sizeof(C));
  using V = Vector<C, N>;
  for (int part = 0; part < kLine<C>; part += N) {
    const C* value = values;
    const uint8_t* channel = channels;
    const C* from = weights + part;
    C* to = sums + part;
    V held[4][4];
#pragma GCC unroll 4
    for (int y = 0; y < 4; ++y) {
      held[y][0] = load_unaligned<V>(to + y * row);
      held[y][1] = load_unaligned<V>(to + y * row + kLine<C>);
    }
    for (int64_t column = 0; column < columns; ++column, to += 2 * kLine<C>) {
      const uint8_t* count = counts + 4 * column;
#pragma GCC unroll 4
      for (int y = 0; y < 4; ++y) {
        held[y][2] = load_unaligned<V>(to + y * row + 2 * kLine<C>);
        held[y][3] = load_unaligned<V>(to + y * row + 3 * kLine<C>);
        __builtin_prefetch(to + y * row + 6 * kLine<C>, 1);
        __builtin_prefetch(to + y * row + 7 * kLine<C>, 1);
      }
      send_in_tile<0, 0, C, N>(held, value, channel, count[0], from);
      value += count[0], channel += count[0];
      send_in_tile<0, 1, C, N>(held, value, channel, count[1], from);
      value += count[1], channel += count[1];
      send_in_tile<1, 0, C, N>(held, value, channel, count[2], from);
      value += count[2], channel += count[2];
      send_in_tile<1, 1, C, N>(held, value, channel, count[3], from);
      value += count[3], channel += count[3];
#pragma GCC unroll 4
      for (int y = 0; y < 4; ++y) {
        store_unaligned(to + y * row, held[y][0]);
        store_unaligned(to + y * row + kLine<C>, held[y][1]);
        held[y][0] = held[y][2];
        held[y][1] = held[y][3];
      }
    }
#pragma GCC unroll 4
    for (int y = 0; y < 4; ++y) {
      store_unaligned(to + y * row, held[y][0]);
      store_unaligned(to + y * row + kLine<C>, held[y][1]);
    }
  }
}

// 3x3 taps with stride 1: a cell of four positions at once.
template <typename T>
void send_tiles(const Backproject2dParams& p, const SendTask& task, const CellRows& rows, Compute<T>* memory) {
  using C = Compute<T>;
  const SignalLists& lists = p.lists;
  const int64_t row_of_sums = held_columns(p) * kLine<C>;
  const int64_t blocks = lists.blocks / p.groups;
  for (int64_t block = 0; block < blocks; ++block) {
    const char* packed = static_cast<const char*>(p.weight.data) +
                         (task.group * p.weight.blocks + task.block) * block_bytes(p.weight) +
                         block * kListedChannels * p.weight.lines * kLineBytes;
    const C* weights = reinterpret_cast<const C*>(packed);
    for (int64_t unit = task.unit; unit < task.unit_end; ++unit) {
      C* sums = memory + (unit - task.unit) * rows.held * row_of_sums;
      const int64_t list = unit * lists.blocks + task.group * blocks + block;
      for (int64_t row = rows.begin; row < rows.end; ++row) {
        const int64_t listed = list * lists.rows + row;
        if (lists.entries[listed] == 0) continue;
        const int64_t at = listed * lists.capacity;
        send_row<C>(static_cast<const C*>(lists.values) + at, lists.channels + at,
                    lists.counts + listed * lists.columns * 4, lists.columns, weights,
                    sums + (2 * row - rows.first_row) * row_of_sums, row_of_sums);
      }
    }
  }
}

// Elements of a slice that lie together both there and in the sums.
struct Run {
  int64_t from;
  int64_t to;
  int64_t count;
};

// Sums kVectors vectors of the weights of one position's entries into `result`. Short slices are summed in several
// strands, so that one sum need not wait for the last.
template <typename C, int kVectors>
inline void sum_slice(const C* values, const uint8_t* channels, int64_t count, const C* weights, int64_t row,
                      C* result) {
  constexpr int N = kVectorBytes / static_cast<int>(sizeof(C));
  constexpr int kStrands = kVectors > 4 ? 1 : kVectors > 2 ? 2 : 4;
  Vector<C, N> sums[kStrands][kVectors] = {};
  int64_t entry = 0;
  for (; entry + kStrands <= count; entry += kStrands) {
#pragma GCC unroll 4
    for (int strand = 0; strand < kStrands; ++strand) {
      const C* from = as_one_register(weights + channels[entry + strand] * row);
      const Vector<C, N> value = broadcast<C, N>(values + entry + strand);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        sums[strand][v] = multiply_add<C, N>(value, load_unaligned<Vector<C, N>>(from + v * N), sums[strand][v]);
      }
    }
  }
  for (; entry < count; ++entry) {
    const C* from = as_one_register(weights + channels[entry] * row);
    const Vector<C, N> value = broadcast<C, N>(values + entry);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      sums[0][v] = multiply_add<C, N>(value, load_unaligned<Vector<C, N>>(from + v * N), sums[0][v]);
    }
  }
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 4
    for (int strand = 1; strand < kStrands; ++strand) sums[0][v] += sums[strand][v];
    store_unaligned(result + v * N, sums[0][v]);
  }
}

// The same for any number of vectors.
template <typename C>
inline void sum_slice(int64_t vectors, const C* values, const uint8_t* channels, int64_t count, const C* weights,
                      int64_t row, C* result) {
  constexpr int N = kVectorBytes / static_cast<int>(sizeof(C));
  for (; vectors >= 8; vectors -= 8, weights += 8 * N, result += 8 * N) {
    sum_slice<C, 8>(values, channels, count, weights, row, result);
  }
  switch (vectors) {
    case 7:
      return sum_slice<C, 7>(values, channels, count, weights, row, result);
    case 6:
      return sum_slice<C, 6>(values, channels, count, weights, row, result);
    case 5:
      return sum_slice<C, 5>(values, channels, count, weights, row, result);
    case 4:
      return sum_slice<C, 4>(values, channels, count, weights, row, result);
    case 3:
      return sum_slice<C, 3>(values, channels, count, weights, row, result);
    case 2:
      return sum_slice<C, 2>(values, channels, count, weights, row, result);
    case 1:
      return sum_slice<C, 1>(values, channels, count, weights, row, result);
    default:
      return;
  }
}

template <int N, typename C>
inline void add_run(C* to, const C* from, int64_t count) {
  for (; count >= N; count -= N, to += N, from += N) {
    using V = Vector<C, N>;
    store_unaligned(to, load_unaligned<V>(to) + load_unaligned<V>(from));
  }
  if constexpr (N > 1) add_run<N / 2>(to, from, count);
}

// Any taps, stride and dilation: one position at a time, a slice of its taps and output channels after the other.
template <typename T>
void send_positions(const Backproject2dParams& p, const SendTask& task, const CellRows& rows, Compute<T>* memory) {
  using C = Compute<T>;
  constexpr int N = kVectorBytes / static_cast<int>(sizeof(C));
  constexpr int64_t kLargestSlice = kSliceLines * kLine<C>;
  const SignalLists& lists = p.lists;
  const int64_t wide = p.weight.wide;
  const int64_t row_of_sums = held_columns(p) * wide;
  const int64_t blocks = lists.blocks / p.groups;
  const int64_t elements = p.kernel.y * p.kernel.x * wide;
  const bool plain = p.weight.plain;
  const int64_t block_number = task.group * p.weight.blocks + task.block;
  const C* packed = reinterpret_cast<const C*>(static_cast<const char*>(p.weight.data) +
                                               (plain ? task.group : block_number) * (plain ? p.weight.blocks : 1) *
                                                   block_bytes(p.weight));
  for (int64_t line = 0; line < p.weight.lines; line += kSliceLines) {
    const int64_t row = smaller(kSliceLines, p.weight.lines - line) * kLine<C>;
    // From the weights of one channel to those of the next.
    const int64_t pitch = plain ? p.weight.blocks * wide : row;
    const C* slice = packed + (plain ? task.block * wide + line * kLine<C> : line * p.weight.channels * kLine<C>);
    Run runs[kLargestSlice];
    int64_t count_of_runs = 0;
    for (int64_t element = 0; element < row && line * kLine<C> + element < elements; ++element) {
      const int64_t tap = (line * kLine<C> + element) / wide, channel = (line * kLine<C> + element) % wide;
      const int64_t to =
          tap / p.kernel.x * p.dilation.y * row_of_sums + tap % p.kernel.x * p.dilation.x * wide + channel;
      if (count_of_runs > 0 && to == runs[count_of_runs - 1].to + runs[count_of_runs - 1].count) {
        ++runs[count_of_runs - 1].count;
      } else {
        runs[count_of_runs++] = {element, to, 1};
      }
    }
    for (int64_t block = 0; block < blocks; ++block) {
      const C* weights = slice + block * kListedChannels * pitch;
      for (int64_t unit = task.unit; unit < task.unit_end; ++unit) {
        C* sums = memory + (unit - task.unit) * rows.held * row_of_sums;
        const int64_t list = unit * lists.blocks + task.group * blocks + block;
        for (int64_t y = rows.begin; y < rows.end; ++y) {
          const int64_t listed = list * lists.rows + y;
          if (lists.entries[listed] == 0) continue;
          int64_t at = listed * lists.capacity;
          const uint8_t* counts = lists.counts + listed * lists.columns;
          C* outputs = sums + (y * p.stride.y - rows.first_row) * row_of_sums;
          for (int64_t x = 0; x < lists.columns; ++x, outputs += p.stride.x * wide) {
            if (counts[x] == 0) continue;
            alignas(64) C sent[kLargestSlice];
            sum_slice<C>(row / N, static_cast<const C*>(lists.values) + at, lists.channels + at, counts[x], weights,
                         pitch, sent);
            for (int64_t run = 0; run < count_of_runs; ++run) {
              add_run<N>(outputs + runs[run].to, sent + runs[run].from, runs[run].count);
            }
            at += counts[x];
          }
        }
      }
    }
  }
}

// kAtOnce outputs from (y, x) of a unit's full transposed convolution on, all output channels of each. With kInside the
// signal has a value at every column they read.
template <typename T, bool kRelu, bool kInside, int kOutputs, int kAtOnce>
inline void gather(const Backproject2dParams& p, const T* input, int64_t y, int64_t x,
                   Compute<T> (&result)[kAtOnce][kOutputs]) {
  using C = Compute<T>;
  constexpr int N = kLanes<T>, kTaps = 3;
  using V = Vector<C, N>;
  constexpr int64_t kLineOfTaps = kTaps * kOutputs * kLine<C>;
  V sums[kAtOnce][kOutputs] = {};
  const int64_t last = smaller(y, p.kernel.y - 1);
  for (int64_t tap = larger(0, y - p.height + 1); tap <= last; ++tap) {
    const T* row = input + (y - tap) * p.width * p.channels;
    const C* line = static_cast<const C*>(p.weight.data) + tap * (p.channels / kLine<C>)*kLineOfTaps;
    for (int64_t channel = 0; channel < p.channels; channel += N) {
      const C* weights = as_one_register(line + channel / kLine<C> * kLineOfTaps + channel % kLine<C>);
      V values[kAtOnce + kTaps - 1];
#pragma GCC unroll 8
      for (int i = 0; i < kAtOnce + kTaps - 1; ++i) {
        const int64_t column = x + i - (kTaps - 1);
        if (kInside || (column >= 0 && column < p.width)) {
          values[i] = load<T, N>(row + column * p.channels + channel);
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
#pragma GCC unroll 4
          for (int i = 0; i < kAtOnce; ++i) {
            sums[i][output] = multiply_add<C, N>(values[i + kTaps - 1 - t], weight, sums[i][output]);
          }
        }
      }
    }
  }
  for (int i = 0; i < kAtOnce; ++i) {
    for (int output = 0; output < kOutputs; ++output) result[i][output] = sum_lanes<C, N>(sums[i][output]);
  }
}

template <typename T, bool kRelu, int kOutputs>
void gather_rows(const Backproject2dParams& p, int64_t begin, int64_t end) {
  using C = Compute<T>;
  constexpr int kAtOnce = kVectorBytes == 64 ? 4 : 2;  // as many sums as there are registers for
  const int64_t plane = p.size.y * p.size.x;
  const int64_t pitch = p.channels_last ? 1 : plane, step = p.channels_last ? kOutputs : 1;
  for (int64_t number = begin; number < end; ++number) {
    const int64_t unit = number / p.size.y, row = number % p.size.y;
    const int64_t* origin = p.origin + 2 * unit;
    const Reached rows = reached(origin[0], p.step.y, p.base.y, p.end.y, p.full.y, p.begin.y, p.size.y);
    const Reached columns = reached(origin[1], p.step.x, p.base.x, p.end.x, p.full.x, p.begin.x, p.size.x);
    const bool has_row = row >= rows.begin && row < rows.end;
    const int64_t first = has_row ? columns.begin : 0, last = has_row ? columns.end : 0;
    const T* input = static_cast<const T*>(p.input) + unit * p.height * p.width * p.channels;
    T* to = static_cast<T*>(p.output) + unit * plane * kOutputs + row * p.size.x * step;
    for (int output = 0; output < kOutputs; ++output) {
      for (int64_t x = 0; x < first; ++x) store_one(to + output * pitch + x * step, C{});
      for (int64_t x = last; x < p.size.x; ++x) store_one(to + output * pitch + x * step, C{});
    }
    const int64_t y = row + p.begin.y;
    for (int64_t at = first; at < last;) {
      const int64_t x = at + p.begin.x;
      if (at + kAtOnce <= last && x >= 2 && x + kAtOnce <= p.width) {
        C result[kAtOnce][kOutputs];
        gather<T, kRelu, true, kOutputs, kAtOnce>(p, input, y, x, result);
        for (int i = 0; i < kAtOnce; ++i) {
          for (int output = 0; output < kOutputs; ++output) {
            store_one(to + output * pitch + (at + i) * step, result[i][output]);
          }
        }
        at += kAtOnce;
      } else {
        C result[1][kOutputs];
        gather<T, kRelu, false, kOutputs, 1>(p, input, y, x, result);
        for (int output = 0; output < kOutputs; ++output) {
          store_one(to + output * pitch + at * step, result[0][output]);
        }
        ++at;
      }
    }
  }
}

template <typename T, bool kRelu>
void gather_rows(const Backproject2dParams& p, int64_t begin, int64_t end) {
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
void gather_signal_rows(const Backproject2dParams& p, int64_t begin, int64_t end) {
  return p.relu ? gather_rows<T, true>(p, begin, end) : gather_rows<T, false>(p, begin, end);
}

template <typename T>
void send_signal_tasks(const Backproject2dParams& p, const SendPlan& plan, void* memory, int64_t begin, int64_t end) {
  using C = Compute<T>;
  for (int64_t number = begin; number < end; ++number) {
    const SendTask task(p, plan, number);
    const CellRows rows(p, task.begin, task.end);
    const int64_t sums_of_unit = rows.held * held_columns(p) * p.weight.wide;
    C* sums = static_cast<C*>(memory);
    std::memset(sums, 0, static_cast<size_t>((task.unit_end - task.unit) * sums_of_unit) * sizeof(C));
    p.weight.tiled ? send_tiles<T>(p, task, rows, sums) : send_positions<T>(p, task, rows, sums);
    for (int64_t unit = task.unit; unit < task.unit_end; ++unit, sums += sums_of_unit) {
      const HeldRows<C> held{sums, rows.first_row, held_columns(p), p.weight.wide};
      write_rows<T>(p, held, unit, task.begin, task.end, task.channel, task.count);
    }
  }
  if (p.streamed) finish_streams();
}

}  // namespace deconv_kernels::DECONV_CPU_CAPABILITY

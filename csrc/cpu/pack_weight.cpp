#include "pack_weight.h"

namespace deconv_kernels {

using baseline::parts_of;
using baseline::smaller;

PackedWeight packing(const Convolution& convolution, ScalarType dtype) {
  const int64_t line = kLineBytes / sum_bytes(dtype);
  const auto& [channels, outputs, groups, taps] = convolution;
  const int64_t count = taps.y.kernel * taps.x.kernel;  // of a plane
  const bool sliding = taps.y.stride == 1 && taps.x.stride == 1 && taps.y.dilation == 1 && taps.x.dilation == 1;
  PackedWeight packed{};
  packed.channels = channels / groups;
  // Lines that would be mostly padding are better filled with several taps.
  packed.tiled = sliding && taps.y.kernel == 3 && taps.x.kernel == 3 && 4 * outputs >= 3 * line;
  packed.gathered = sliding && groups == 1 && taps.x.kernel == 3 && outputs <= kGatheredOutputs && channels % line == 0;
  packed.wide = packed.tiled ? line : smaller(outputs, count == 1 ? 128 : 64);
  packed.blocks = parts_of(outputs, packed.wide);
  packed.planes = taps.z.kernel;
  packed.lines = packed.tiled ? count : parts_of(count * packed.wide, line);
  return packed;
}

int64_t packed_elements(const Convolution& c, const PackedWeight& packed, ScalarType dtype) {
  if (packed.gathered) return c.taps.taps() * c.outputs * c.channels;
  return c.groups * packed.blocks * packed.planes * packed.channels * packed.lines * (kLineBytes / sum_bytes(dtype));
}

namespace {

inline float as_sum(float value) { return value; }
inline double as_sum(double value) { return value; }
inline float as_sum(torch::headeronly::Half value) { return static_cast<float>(value); }
inline float as_sum(torch::headeronly::BFloat16 value) { return static_cast<float>(value); }

// Packs the planes of taps [begin, end), counted over all blocks of output channels of all groups.
template <typename T, typename C>
void pack_planes(const Convolution& c, const PackedWeight& packed, const T* weight, C* to, int64_t begin, int64_t end) {
  constexpr int64_t kLine = kLineBytes / static_cast<int64_t>(sizeof(C));
  const int64_t taps = c.taps.y.kernel * c.taps.x.kernel;  // of a plane
  to += begin * packed.channels * packed.lines * kLine;
  const int64_t slice_lines = packed.tiled ? packed.lines : kSliceLines;
  for (int64_t plane = begin; plane < end; ++plane) {
    const int64_t group = plane / packed.planes / packed.blocks;
    const int64_t first = plane / packed.planes % packed.blocks * packed.wide;
    const int64_t first_tap = plane % packed.planes * taps;
    for (int64_t line = 0; line < packed.lines; line += slice_lines) {
      const int64_t elements = smaller(slice_lines, packed.lines - line) * kLine;
      for (int64_t channel = 0; channel < packed.channels; ++channel) {
        const T* from = weight + (group * packed.channels + channel) * c.outputs * c.taps.taps() + first_tap;
        for (int64_t element = line * kLine; element < line * kLine + elements; ++element) {
          const int64_t tap = element / packed.wide, output = first + element % packed.wide;
          const bool exists = tap < taps && output < c.outputs;
          *to++ = exists ? as_sum(from[output * c.taps.taps() + tap]) : C{};
        }
      }
    }
  }
}

template <typename T, typename C>
void pack_gathered(const Convolution& c, const T* weight, C* to) {
  constexpr int64_t kLine = kLineBytes / static_cast<int64_t>(sizeof(C));
  const int64_t taps = c.taps.taps();
  for (int64_t row = 0; row < c.taps.z.kernel * c.taps.y.kernel; ++row) {
    for (int64_t first = 0; first < c.channels; first += kLine) {
      for (int64_t column = 0; column < c.taps.x.kernel; ++column) {
        for (int64_t output = 0; output < c.outputs; ++output) {
          const T* from = weight + output * taps + row * c.taps.x.kernel + column;
          for (int64_t k = first; k < first + kLine; ++k) *to++ = as_sum(from[k * c.outputs * taps]);
        }
      }
    }
  }
}

template <typename T, typename C>
void pack(const Convolution& c, const PackedWeight& packed, const Tensor& weight, const Tensor& to) {
  const T* from = static_cast<const T*>(weight.const_data_ptr());
  C* values = static_cast<C*>(to.mutable_data_ptr());
  if (packed.gathered) return pack_gathered<T, C>(c, from, values);
  const int64_t elements = packed.channels * packed.lines * kLineBytes;
  parallel_rows(c.groups * packed.blocks * packed.planes, elements,
                [&](int64_t begin, int64_t end) { pack_planes<T, C>(c, packed, from, values, begin, end); });
}

}  // namespace

Tensor packed_tensor(const Tensor& weight, const Convolution& c, const PackedWeight& packed) {
  const Tensor dense = torch::stable::contiguous(weight);
  const ScalarType dtype = weight.scalar_type();
  const int64_t size = packed_elements(c, packed, dtype), stride = 1;
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(1, &size, &stride, dtype_code(sum_dtype(dtype)),
                                                  aoti_torch_device_type_cpu(), 0, &handle));
  const Tensor to(handle);
  switch (dtype) {
    case ScalarType::Double:
      pack<double, double>(c, packed, dense, to);
      break;
    case ScalarType::Half:
      pack<torch::headeronly::Half, float>(c, packed, dense, to);
      break;
    case ScalarType::BFloat16:
      pack<torch::headeronly::BFloat16, float>(c, packed, dense, to);
      break;
    default:
      pack<float, float>(c, packed, dense, to);
  }
  return to;
}

namespace {

Tensor pack_weight(const PackWeightCall& call) {
  return packed_tensor(call.weight, call.convolution, packing(call.convolution, call.weight.scalar_type()));
}

int64_t packed_size(const PackedSizeCall& call) {
  return packed_elements(call.convolution, packing(call.convolution, call.dtype), call.dtype);
}

STABLE_TORCH_LIBRARY_IMPL(deconv_kernels, CPU, m) {
  m.impl("pack_weight", TORCH_BOX((&Checked<check_pack_weight, pack_weight>::kernel)));
}

STABLE_TORCH_LIBRARY_IMPL(deconv_kernels, CompositeExplicitAutograd, m) {
  m.impl("packed_size", TORCH_BOX((&Checked<check_packed_size, packed_size>::kernel)));
}

}  // namespace

}  // namespace deconv_kernels

// Maps in their two dense layouts: shapes, and how results are allocated.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <array>
#include <cstdint>

#include "geometry/pooling.h"

namespace deconv_kernels {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

#define DK_CHECK(condition, ...) STD_TORCH_CHECK(condition, "ValueError: ", __VA_ARGS__)

// A (C, D, H, W) or (N, C, D, H, W) tensor where `rank` is three, one without D, and of one plane, where it is two.
// channels_last tells which of the two dense layouts the results take.
struct MapShape {
  int64_t images;
  int64_t channels;
  int64_t depth;
  int64_t height;
  int64_t width;
  int rank;
  bool batched;
  bool channels_last;

  int64_t numel() const { return images * channels * depth * height * width; }
  PerAxis size() const { return {depth, height, width}; }
  // Whether channels lie side by side in memory; both layouts of one channel are the same memory.
  bool channels_innermost() const { return channels_last && channels > 1; }
  // Elements that lie side by side as one row of a dense map, and how many such rows there are.
  int64_t row() const { return width * (channels_innermost() ? channels : 1); }
  int64_t rows() const { return numel() / row(); }
  MapShape resized(const PerAxis& size) const {
    MapShape shape = *this;
    shape.depth = size.z;
    shape.height = size.y;
    shape.width = size.x;
    return shape;
  }
};

// Whether the strides of a map of `rank` dimensions rise from channels over the spatial axes, the last one first, to
// images, gaps allowed: what makes ATen lay out its results channels_last.
inline bool is_channels_last(const Tensor& tensor, int rank) {
  const int64_t dimensions = tensor.dim(), channels = dimensions - rank - 1;
  const int64_t of_channels = tensor.stride(channels);
  if (of_channels == 0) return false;
  int64_t least = 0;
  for (int64_t axis = dimensions; axis > channels; --axis) {
    const int64_t at = axis == dimensions ? channels : axis;
    const int64_t stride = tensor.stride(at), size = tensor.size(at);
    if (size == 0 || stride < least) return false;
    least = size > 1 ? size * stride : stride;
  }
  // One element for all of them, which says nothing.
  if (least == of_channels) return false;
  return channels == 0 || (tensor.size(0) > 0 && tensor.stride(0) >= least);
}

// Sizes and strides of the dense tensor that a shape asks for.
struct DenseLayout {
  std::array<int64_t, 5> sizes{};
  std::array<int64_t, 5> strides{};
  int64_t dimensions = 0;

  explicit DenseLayout(const MapShape& shape) {
    const int64_t inner = shape.channels_last ? shape.channels : 1;
    const int64_t plane = shape.height * shape.width, image = shape.channels * shape.depth * plane;
    if (shape.batched) append(shape.images, image);
    append(shape.channels, shape.channels_last ? 1 : shape.depth * plane);
    if (shape.rank == 3) append(shape.depth, plane * inner);
    append(shape.height, shape.width * inner);
    append(shape.width, inner);
  }

 private:
  void append(int64_t size, int64_t stride) {
    sizes[static_cast<size_t>(dimensions)] = size;
    strides[static_cast<size_t>(dimensions++)] = stride;
  }
};

inline int32_t dtype_code(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float:
      return aoti_torch_dtype_float32();
    case ScalarType::Double:
      return aoti_torch_dtype_float64();
    case ScalarType::Half:
      return aoti_torch_dtype_float16();
    case ScalarType::BFloat16:
      return aoti_torch_dtype_bfloat16();
    case ScalarType::Byte:
      return aoti_torch_dtype_uint8();
    case ScalarType::Short:
      return aoti_torch_dtype_int16();
    case ScalarType::Long:
      return aoti_torch_dtype_int64();
    default:
      DK_CHECK(false, "no op of deconv_kernels returns this dtype");
      return 0;
  }
}

// An uninitialised dense tensor of `shape` on the device of `like`.
inline Tensor empty_map(const MapShape& shape, ScalarType dtype, const Tensor& like) {
  const DenseLayout layout(shape);
  int32_t device_type = 0;
  int32_t device_index = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(layout.dimensions, layout.sizes.data(), layout.strides.data(),
                                                  dtype_code(dtype), device_type, device_index, &handle));
  return Tensor(handle);
}

// `tensor` itself where it is dense in the layout of `shape`, a copy in that layout otherwise.
inline Tensor dense(const Tensor& tensor, const MapShape& shape) {
  const DenseLayout layout(shape);
  bool is_dense = true;
  for (size_t axis = 0; axis < static_cast<size_t>(layout.dimensions); ++axis) {
    is_dense =
        is_dense && (layout.sizes[axis] == 1 || tensor.stride(static_cast<int64_t>(axis)) == layout.strides[axis]);
  }
  if (is_dense) return tensor;
  Tensor copy = empty_map(shape, tensor.scalar_type(), tensor);
  torch::stable::copy_(copy, tensor);
  return copy;
}

}  // namespace deconv_kernels

// Maps in their two dense layouts: shapes, and how results are allocated.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <array>
#include <cstdint>

namespace deconv_kernels {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

#define DK_CHECK(condition, ...) STD_TORCH_CHECK(condition, "ValueError: ", __VA_ARGS__)

// A (C, H, W) or (N, C, H, W) tensor. channels_last tells which of the two dense layouts the results take.
struct MapShape {
  int64_t images;
  int64_t channels;
  int64_t height;
  int64_t width;
  bool batched;
  bool channels_last;

  int64_t numel() const { return images * channels * height * width; }
  // Whether channels lie side by side in memory; both layouts of one channel are the same memory.
  bool channels_innermost() const { return channels_last && channels > 1; }
  // Elements that lie side by side as one row of a dense map, and how many such rows there are.
  int64_t row() const { return width * (channels_innermost() ? channels : 1); }
  int64_t rows() const { return numel() / row(); }
  MapShape resized(int64_t new_height, int64_t new_width) const {
    MapShape shape = *this;
    shape.height = new_height;
    shape.width = new_width;
    return shape;
  }
};

// Whether the strides of a (C, H, W) or (N, C, H, W) tensor rise from channels over columns and rows to images, gaps
// allowed: what makes ATen lay out its results channels_last.
inline bool is_channels_last(const Tensor& tensor) {
  const int64_t rank = tensor.dim();
  const int64_t of_channels = tensor.stride(rank - 3);
  if (of_channels == 0) return false;
  int64_t least = 0;
  for (const int64_t axis : {rank - 3, rank - 1, rank - 2}) {
    const int64_t stride = tensor.stride(axis), size = tensor.size(axis);
    if (size == 0 || stride < least) return false;
    least = size > 1 ? size * stride : stride;
  }
  // One element for all three, which says nothing.
  if (least == of_channels) return false;
  return rank == 3 || (tensor.size(0) > 0 && tensor.stride(0) >= least);
}

// Strides of the dense layout that `shape` asks for, with one entry per dimension of the tensor.
inline std::array<int64_t, 4> dense_strides(const MapShape& shape) {
  const int64_t image = shape.channels * shape.height * shape.width;
  return shape.channels_last ? std::array<int64_t, 4>{image, 1, shape.width * shape.channels, shape.channels}
                             : std::array<int64_t, 4>{image, shape.height * shape.width, shape.width, 1};
}

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
  const std::array<int64_t, 4> sizes{shape.images, shape.channels, shape.height, shape.width};
  const std::array<int64_t, 4> strides = dense_strides(shape);
  const int64_t unused = shape.batched ? 0 : 1;
  int32_t device_type = 0;
  int32_t device_index = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(4 - unused, sizes.data() + unused, strides.data() + unused,
                                                  dtype_code(dtype), device_type, device_index, &handle));
  return Tensor(handle);
}

// `tensor` itself where it is dense in the layout of `shape`, a copy in that layout otherwise.
inline Tensor dense(const Tensor& tensor, const MapShape& shape) {
  const std::array<int64_t, 4> sizes{shape.images, shape.channels, shape.height, shape.width};
  const std::array<int64_t, 4> strides = dense_strides(shape);
  bool is_dense = true;
  for (int64_t axis = shape.batched ? 0 : 1; axis < 4; ++axis) {
    is_dense = is_dense && (sizes[axis] == 1 || tensor.stride(shape.batched ? axis : axis - 1) == strides[axis]);
  }
  if (is_dense) return tensor;
  Tensor copy = empty_map(shape, tensor.scalar_type(), tensor);
  torch::stable::copy_(copy, tensor);
  return copy;
}

}  // namespace deconv_kernels

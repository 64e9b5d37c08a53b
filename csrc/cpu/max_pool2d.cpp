#include <optional>
#include <tuple>

#include "launch.h"

namespace deconv_kernels {

namespace {

std::tuple<Tensor, Tensor> max_pool2d(const Tensor& input, const std::optional<Tensor>& bias,
                                      const IntList& kernel_size, const IntList& stride, const IntList& padding,
                                      const IntList& dilation, bool ceil_mode, bool relu) {
  const Pooling pooling = make_pooling(kernel_size, stride, padding, dilation);
  const Element element = element_of(input);
  const MapShape shape = map_shape("input", input);
  const MapShape pooled =
      shape.resized(pooled_size(shape.height, pooling.y, ceil_mode), pooled_size(shape.width, pooling.x, ceil_mode));
  DK_CHECK(pooled.height > 0 && pooled.width > 0, "kernel_size (", pooling.y.kernel, ", ", pooling.x.kernel,
           ") does not fit input's (", shape.height, ", ", shape.width, ") map");

  const Tensor from = dense(input, shape);
  std::optional<Tensor> added;
  if (bias.has_value()) {
    DK_CHECK(bias->dim() == 1 && bias->size(0) == shape.channels, "bias must have one entry for each of ",
             shape.channels, " channels");
    check_dtype("bias", *bias, input.scalar_type());
    check_same_device("bias", *bias, "input", input);
    check_memory("bias", *bias);
    added = torch::stable::contiguous(*bias);
  }
  Tensor values = result_map(pooled, input.scalar_type(), input);
  const ScalarType switch_type = switch_dtype(pooling);
  Tensor switches = result_map(pooled, switch_type, input);

  const MaxPool2dParams params{from.const_data_ptr(),
                               added.has_value() ? added->const_data_ptr() : nullptr,
                               values.mutable_data_ptr(),
                               switches.mutable_data_ptr(),
                               shape.channels,
                               shape.height,
                               shape.width,
                               pooled.height,
                               pooled.width,
                               pooling,
                               relu,
                               switch_type == ScalarType::Short};
  const int64_t rows = pooled.images * pooled.height * (shape.channels_last ? 1 : pooled.channels);
  const int64_t row = pooled.width * (shape.channels_last ? pooled.channels : 1);
  parallel_rows(rows, row * pooling.y.kernel * pooling.x.kernel, [&](int64_t begin, int64_t end) {
    kernels().max_pool2d(element, shape.channels_last, params, begin, end);
  });
  return {values, switches};
}

}  // namespace

}  // namespace deconv_kernels

STABLE_TORCH_LIBRARY_IMPL(deconv_kernels, CPU, m) { m.impl("max_pool2d", TORCH_BOX(&deconv_kernels::max_pool2d)); }

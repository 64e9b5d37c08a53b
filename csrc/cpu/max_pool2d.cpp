#include <optional>
#include <tuple>

#include "launch.h"

namespace deconv_kernels {

namespace {

std::tuple<Tensor, Tensor> max_pool2d(const Tensor& input, const std::optional<Tensor>& bias,
                                      const IntList& kernel_size, const IntList& stride, const IntList& padding,
                                      const IntList& dilation, bool ceil_mode, bool relu) {
  const auto [pooling, shape, pooled] =
      check_max_pool2d(input, bias, kernel_size, stride, padding, dilation, ceil_mode);
  const Element element = element_of(input);
  const Tensor from = dense(input, shape);
  std::optional<Tensor> added;
  if (bias.has_value()) added = torch::stable::contiguous(*bias);
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
  const bool channels_last = shape.channels_innermost();
  const int64_t rows = pooled.images * pooled.height * (channels_last ? 1 : pooled.channels);
  const int64_t row = pooled.width * (channels_last ? pooled.channels : 1);
  parallel_rows(rows, row * pooling.y.kernel * pooling.x.kernel,
                [&](int64_t begin, int64_t end) { kernels().max_pool2d(element, channels_last, params, begin, end); });
  return {values, switches};
}

}  // namespace

}  // namespace deconv_kernels

STABLE_TORCH_LIBRARY_IMPL(deconv_kernels, CPU, m) { m.impl("max_pool2d", TORCH_BOX(&deconv_kernels::max_pool2d)); }

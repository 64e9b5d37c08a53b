#include <optional>
#include <tuple>

#include "launch.h"

namespace deconv_kernels {

namespace {

std::tuple<Tensor, Tensor> max_pool(const MaxPoolCall& call) {
  const MapShape& map = call.map;
  const MapShape& pooled = call.pooled;
  const Element element = element_of(call.input);
  const Tensor from = dense(call.input, map);
  std::optional<Tensor> added;
  if (call.bias.has_value()) added = torch::stable::contiguous(*call.bias);
  Tensor values = result_map(pooled, call.input.scalar_type(), call.input);
  const ScalarType switch_type = switch_dtype(call.pooling);
  Tensor switches = result_map(pooled, switch_type, call.input);

  const MaxPoolParams params{from.const_data_ptr(),
                             added.has_value() ? added->const_data_ptr() : nullptr,
                             values.mutable_data_ptr(),
                             switches.mutable_data_ptr(),
                             map.channels,
                             map.size(),
                             pooled.size(),
                             call.pooling,
                             call.relu,
                             switch_type == ScalarType::Short};
  const bool channels_last = map.channels_innermost();
  parallel_rows(pooled.rows(), pooled.row() * call.pooling.taps(),
                [&](int64_t begin, int64_t end) { kernels().max_pool(element, channels_last, params, begin, end); });
  return {values, switches};
}

STABLE_TORCH_LIBRARY_IMPL(deconv_kernels, CPU, m) {
  m.impl("max_pool2d", TORCH_BOX((&Checked<check_max_pool<2>, max_pool>::kernel)));
  m.impl("max_pool3d", TORCH_BOX((&Checked<check_max_pool<3>, max_pool>::kernel)));
}

}  // namespace

}  // namespace deconv_kernels

#include "launch.h"

namespace deconv_kernels {

namespace {

Tensor max_unpool2d(const Tensor& input, const Tensor& switches, const IntList& kernel_size, const IntList& stride,
                    const IntList& padding, const IntList& dilation, const IntList& output_size,
                    const std::string& overlap, bool relu) {
  const Pooling pooling = make_pooling(kernel_size, stride, padding, dilation);
  const Element element = element_of(input);
  const MapShape shape = map_shape("input", input);
  check_same_map("switches", map_shape("switches", switches), "input", shape);
  check_dtype("switches", switches, switch_dtype(pooling));
  check_same_device("switches", switches, "input", input);
  const MapShape unpooled = checked_unpooled("output_size", output_size, shape, pooling);

  const Tensor values = dense(input, shape);
  const Tensor codes = dense(switches, shape);
  Tensor output = empty_map(unpooled, input.scalar_type(), input);
  const PhaseTable phases_y(pooling.y);
  const PhaseTable phases_x(pooling.x);
  const MaxUnpool2dParams params{values.const_data_ptr(),
                                 codes.const_data_ptr(),
                                 output.mutable_data_ptr(),
                                 nullptr,
                                 nullptr,
                                 shape.images,
                                 shape.channels,
                                 shape.height,
                                 shape.width,
                                 shape.height,
                                 shape.width,
                                 unpooled.height,
                                 unpooled.width,
                                 pooling,
                                 phases_y.view(),
                                 phases_x.view(),
                                 overlap_is_last(overlap),
                                 relu,
                                 switch_dtype(pooling) == ScalarType::Short};
  const int64_t rows = unpooled.images * unpooled.height * (shape.channels_last ? 1 : unpooled.channels);
  parallel_rows(rows, unpooled.width * (shape.channels_last ? unpooled.channels : 1), [&](int64_t begin, int64_t end) {
    kernels().max_unpool2d(element, shape.channels_last, params, begin, end);
  });
  return output;
}

}  // namespace

}  // namespace deconv_kernels

STABLE_TORCH_LIBRARY_IMPL(deconv_kernels, CPU, m) { m.impl("max_unpool2d", TORCH_BOX(&deconv_kernels::max_unpool2d)); }

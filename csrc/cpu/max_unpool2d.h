// The launch that unpooling whole maps and unpooling windows of them share.
#pragma once

#include "launch.h"

namespace deconv_kernels {

// Unpools `input`, windows of shape `windows`, by `switches`, maps of shape `maps`, into windows of shape `unpooled`;
// see MaxUnpool2dParams for `image` and `origin`.
inline Tensor launch_max_unpool2d(const Tensor& input, const MapShape& windows, const Tensor& switches,
                                  const MapShape& maps, const int64_t* image, const int64_t* origin,
                                  const MapShape& unpooled, const Pooling& pooling, bool last, bool relu) {
  const Tensor values = dense(input, windows);
  const Tensor codes = dense(switches, maps);
  Tensor output = result_map(unpooled, input.scalar_type(), input);
  const bool channels_last = windows.channels_innermost();
  const PhaseTable phases_y(pooling.y);
  const PhaseTable phases_x(pooling.x);
  const MaxUnpool2dParams params{values.const_data_ptr(),
                                 codes.const_data_ptr(),
                                 output.mutable_data_ptr(),
                                 image,
                                 origin,
                                 windows.images,
                                 windows.channels,
                                 windows.height,
                                 windows.width,
                                 maps.height,
                                 maps.width,
                                 unpooled.height,
                                 unpooled.width,
                                 pooling,
                                 phases_y.view(),
                                 phases_x.view(),
                                 last,
                                 relu,
                                 switch_dtype(pooling) == ScalarType::Short,
                                 channels_last ? bypasses_caches(output, unpooled.channels) : exceeds_caches(output)};
  const Element element = element_of(input);
  const int64_t rows = unpooled.images * unpooled.height * (channels_last ? 1 : unpooled.channels);
  const int64_t row = unpooled.width * (channels_last ? unpooled.channels : 1);
  parallel_rows(rows, row, [&](int64_t begin, int64_t end) {
    kernels().max_unpool2d(element, channels_last, params, begin, end);
  });
  return output;
}

}  // namespace deconv_kernels

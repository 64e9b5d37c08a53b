// The launch that unpooling whole maps and unpooling windows of them share.
#pragma once

#include "launch.h"

namespace deconv_kernels {

// See MaxUnpoolParams for `image` and `origin`.
inline Tensor launch_max_unpool(const MaxUnpoolCall& call, const int64_t* image, const int64_t* origin) {
  const MapShape& pooled = call.pooled;
  const MapShape& unpooled = call.unpooled;
  const Tensor values = dense(call.input, pooled);
  const Tensor codes = dense(call.switches, call.maps);
  Tensor output = result_map(unpooled, call.input.scalar_type(), call.input);
  const bool channels_last = pooled.channels_innermost();
  const PhaseTable phases_z(call.pooling.z);
  const PhaseTable phases_y(call.pooling.y);
  const PhaseTable phases_x(call.pooling.x);
  const MaxUnpoolParams params{values.const_data_ptr(),
                               codes.const_data_ptr(),
                               output.mutable_data_ptr(),
                               image,
                               origin,
                               pooled.rank,
                               pooled.images,
                               pooled.channels,
                               pooled.size(),
                               call.maps.size(),
                               unpooled.size(),
                               call.pooling,
                               phases_z.view(),
                               phases_y.view(),
                               phases_x.view(),
                               call.last,
                               call.relu,
                               switch_dtype(call.pooling) == ScalarType::Short,
                               channels_last ? bypasses_caches(output, unpooled.channels) : exceeds_caches(output)};
  const Element element = element_of(call.input);
  parallel_rows(unpooled.rows(), unpooled.row(),
                [&](int64_t begin, int64_t end) { kernels().max_unpool(element, channels_last, params, begin, end); });
  return output;
}

}  // namespace deconv_kernels

// Max unpooling of windows: the kernels of max_unpool.cuh, with switches that belong to a batch of images.
#pragma once

#include "max_unpool.cuh"

namespace deconv_kernels::cuda {

template <typename T, typename SwitchType>
struct MaxUnpoolWindow : MaxUnpool<T, SwitchType> {
  const int64_t* image;   // [units]: the image whose switches a window uses
  const int64_t* origin;  // [units][rank]: where its first element lies in that image's pooled map
  int rank;
  int64_t switch_batch;
  int64_t switch_depth;
  int64_t switch_height;
  int64_t switch_width;

  // No switches outside the pooled map, and none at all for an image that does not exist.
  __device__ __forceinline__ SwitchRegion switches_of(int64_t window) const {
    int64_t image_of_sample;
    const int64_t unit = this->layout.images_per_sample.divide(window, &image_of_sample);
    const int64_t sample = image[unit];
    const int64_t* const place = origin + rank * unit;
    const int64_t origin_z = rank == 3 ? place[0] : 0;
    const int64_t origin_y = place[rank - 2];
    const int64_t origin_x = place[rank - 1];
    if (sample < 0 || sample >= switch_batch || origin_z >= switch_depth || origin_y >= switch_height ||
        origin_x >= switch_width || origin_z <= -this->pooled_depth || origin_y <= -this->pooled_height ||
        origin_x <= -this->pooled_width) {
      return {};
    }
    const int64_t channels = this->layout.channels;
    const int64_t switch_image = sample * this->layout.images_per_sample.divisor() + image_of_sample;
    const int64_t room_z = switch_depth - origin_z;
    const int64_t room_y = switch_height - origin_y;
    const int64_t room_x = switch_width - origin_x;
    SwitchRegion region;
    region.row_length = switch_width * channels;
    region.plane_length = switch_height * region.row_length;
    region.offset = (switch_image * switch_depth + origin_z) * region.plane_length + origin_y * region.row_length +
                    origin_x * channels;
    region.begin_z = origin_z < 0 ? -origin_z : 0;
    region.begin_y = origin_y < 0 ? -origin_y : 0;
    region.begin_x = origin_x < 0 ? -origin_x : 0;
    region.end_z = room_z < this->pooled_depth ? room_z : this->pooled_depth;
    region.end_y = room_y < this->pooled_height ? room_y : this->pooled_height;
    region.end_x = room_x < this->pooled_width ? room_x : this->pooled_width;
    return region;
  }
};

}  // namespace deconv_kernels::cuda

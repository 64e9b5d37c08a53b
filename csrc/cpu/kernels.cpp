// The loops of one instruction set; the build compiles this file once for each, with DECONV_CPU_CAPABILITY naming it.
#include "kernels.h"

#include "max_pool2d_loop.h"
#include "max_unpool2d_loop.h"

namespace deconv_kernels::DECONV_CPU_CAPABILITY {

namespace {

void max_pool2d(Element element, bool channels_last, const MaxPool2dParams& params, int64_t begin, int64_t end) {
  switch (element) {
    case Element::kFloat:
      return max_pool2d_rows<float>(channels_last, params, begin, end);
    case Element::kDouble:
      return max_pool2d_rows<double>(channels_last, params, begin, end);
    case Element::kHalf:
      return max_pool2d_rows<Half>(channels_last, params, begin, end);
    case Element::kBFloat16:
      return max_pool2d_rows<BFloat16>(channels_last, params, begin, end);
  }
}

void max_unpool2d(Element element, bool channels_last, const MaxUnpool2dParams& params, int64_t begin, int64_t end) {
  switch (element) {
    case Element::kFloat:
      return max_unpool2d_rows<float>(channels_last, params, begin, end);
    case Element::kDouble:
      return max_unpool2d_rows<double>(channels_last, params, begin, end);
    case Element::kHalf:
      return max_unpool2d_rows<Half>(channels_last, params, begin, end);
    case Element::kBFloat16:
      return max_unpool2d_rows<BFloat16>(channels_last, params, begin, end);
  }
}

}  // namespace

#define DK_STRING(text) #text
#define DK_NAME(text) DK_STRING(text)
const Kernels kKernels{DK_NAME(DECONV_CPU_CAPABILITY), max_pool2d, max_unpool2d};

}  // namespace deconv_kernels::DECONV_CPU_CAPABILITY

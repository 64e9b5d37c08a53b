// The loops of one instruction set; the build compiles this file once for each, with DECONV_CPU_CAPABILITY naming it.
#include "kernels.h"

#include "backproject2d_loop.h"
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

void list_signal(Element element, const Backproject2dParams& params, int64_t begin, int64_t end) {
  switch (element) {
    case Element::kFloat:
      return list_signal_rows<float>(params, begin, end);
    case Element::kDouble:
      return list_signal_rows<double>(params, begin, end);
    case Element::kHalf:
      return list_signal_rows<Half>(params, begin, end);
    case Element::kBFloat16:
      return list_signal_rows<BFloat16>(params, begin, end);
  }
}

void send_signal(Element element, const Backproject2dParams& params, const SendPlan& plan, void* memory, int64_t begin,
                 int64_t end) {
  switch (element) {
    case Element::kFloat:
      return send_signal_tasks<float>(params, plan, memory, begin, end);
    case Element::kDouble:
      return send_signal_tasks<double>(params, plan, memory, begin, end);
    case Element::kHalf:
      return send_signal_tasks<Half>(params, plan, memory, begin, end);
    case Element::kBFloat16:
      return send_signal_tasks<BFloat16>(params, plan, memory, begin, end);
  }
}

void gather_signal(Element element, const Backproject2dParams& params, int64_t begin, int64_t end) {
  switch (element) {
    case Element::kFloat:
      return gather_signal_rows<float>(params, begin, end);
    case Element::kDouble:
      return gather_signal_rows<double>(params, begin, end);
    case Element::kHalf:
      return gather_signal_rows<Half>(params, begin, end);
    case Element::kBFloat16:
      return gather_signal_rows<BFloat16>(params, begin, end);
  }
}

}  // namespace

#define DK_STRING(text) #text
#define DK_NAME(text) DK_STRING(text)
const Kernels kKernels{
    DK_NAME(DECONV_CPU_CAPABILITY), max_pool2d, max_unpool2d, list_signal, send_signal, gather_signal};

}  // namespace deconv_kernels::DECONV_CPU_CAPABILITY

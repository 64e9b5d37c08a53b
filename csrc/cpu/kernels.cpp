// The loops of one instruction set; the build compiles this file once for each, with DECONV_CPU_CAPABILITY naming it.
#include "kernels.h"

#include "backproject/gather.h"
#include "backproject/list.h"
#include "backproject/send.h"
#include "max_pool_loop.h"
#include "max_unpool_loop.h"

namespace deconv_kernels::DECONV_CPU_CAPABILITY {

namespace {

// Calls run.template operator()<T>().
template <typename Run>
void with_type(Element element, const Run& run) {
  switch (element) {
    case Element::kFloat:
      return run.template operator()<float>();
    case Element::kDouble:
      return run.template operator()<double>();
    case Element::kHalf:
      return run.template operator()<Half>();
    case Element::kBFloat16:
      return run.template operator()<BFloat16>();
  }
}

void max_pool(Element element, bool channels_last, const MaxPoolParams& params, int64_t begin, int64_t end) {
  with_type(element, [&]<typename T>() { max_pool_rows<T>(channels_last, params, begin, end); });
}

void max_unpool(Element element, bool channels_last, const MaxUnpoolParams& params, int64_t begin, int64_t end) {
  with_type(element, [&]<typename T>() { max_unpool_rows<T>(channels_last, params, begin, end); });
}

void list_signal(Element element, const BackprojectParams& params, int64_t begin, int64_t end) {
  with_type(element, [&]<typename T>() { list_signal_rows<T>(params, begin, end); });
}

void send_signal(Element element, const BackprojectParams& params, const SendPlan& plan, void* memory, int64_t begin,
                 int64_t end) {
  with_type(element, [&]<typename T>() { send_signal_tasks<T>(params, plan, memory, begin, end); });
}

void gather_signal(Element element, const BackprojectParams& params, int64_t begin, int64_t end) {
  with_type(element, [&]<typename T>() { gather_signal_rows<T>(params, begin, end); });
}

}  // namespace

#define DK_STRING(text) #text
#define DK_NAME(text) DK_STRING(text)
const Kernels kKernels{DK_NAME(DECONV_CPU_CAPABILITY), max_pool, max_unpool, list_signal, send_signal, gather_signal};

}  // namespace deconv_kernels::DECONV_CPU_CAPABILITY

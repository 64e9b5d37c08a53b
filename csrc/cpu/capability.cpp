#include <cstdlib>
#include <string>
#include <tuple>

#include "../checks.h"
#include "caches.h"
#include "kernels.h"

namespace deconv_kernels {

namespace {

const Kernels* choose() {
  const char* variable = std::getenv("DECONV_CPU_CAPABILITY");
  const std::string asked = variable == nullptr ? "" : variable;
  const auto allowed = [&asked](const Kernels& kernels) { return asked.empty() || asked == kernels.name; };
#if defined(DECONV_X86_KERNELS)
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                        __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (has_avx512 && allowed(avx512::kKernels)) return &avx512::kKernels;
  if (has_avx2 && allowed(avx2::kKernels)) return &avx2::kKernels;
#endif
  DK_CHECK(allowed(baseline::kKernels), "DECONV_CPU_CAPABILITY is ", asked,
           ", which is not baseline or an instruction set (avx2, avx512) that this processor and build have");
  return &baseline::kKernels;
}

}  // namespace

const Kernels& kernels() {
  static const Kernels* const chosen = choose();
  return *chosen;
}

namespace {

std::string cpu_capability() { return kernels().name; }

std::tuple<int64_t, int64_t, int64_t> cpu_choices() { return {largest_cache(), streamed_from(), kGatheredOutputs}; }

}  // namespace

}  // namespace deconv_kernels

STABLE_TORCH_LIBRARY_IMPL(deconv_kernels, CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", TORCH_BOX(&deconv_kernels::cpu_capability));
  m.impl("cpu_choices", TORCH_BOX(&deconv_kernels::cpu_choices));
}

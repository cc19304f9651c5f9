#include "kernels/VectorKernel.h"

#include <ATen/Version.h>

#include <string>

namespace at::openreg {
namespace {

InstructionSet detect() {
  const std::string capability = at::get_cpu_capability();
#if defined(__x86_64__)
  if (capability == "AVX512") {
    __builtin_cpu_init();
    const bool has_dot_products =
        __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
    return has_dot_products ? InstructionSet::Avx512Bf16 : InstructionSet::Avx512;
  }
  if (capability == "AVX2") {
    return InstructionSet::Avx2;
  }
#endif
  return InstructionSet::Default;
}

} // namespace

InstructionSet instruction_set() {
  static const InstructionSet best = detect();
  return best;
}

} // namespace at::openreg

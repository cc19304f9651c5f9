#pragma once

// Kernels in vector code, compiled once per instruction set.
//
// Note [Vector kernels]
// The sources in csrc/kernels/vector are compiled several times, each time with
// the compiler flags and the CPU_CAPABILITY macros of one instruction set, so
// that at::vec's types have its width. Each copy enters its functions into the
// kernel's table; a call takes the best one that the CPU has and that
// ATEN_CPU_CAPABILITY allows. Everything in such a source has internal linkage
// or is inlined: the linker must not pick one copy of a shared function for all.

#include <array>
#include <cstddef>

namespace at::openreg {

// The order of CMakeLists.txt, which passes the number as OPENREG_INSTRUCTION_SET; the last has
// products only.
enum class InstructionSet : size_t { Default, Avx2, Avx512, Avx512Bf16 };
inline constexpr size_t kInstructionSets = 4;

// The best instruction set to use in this process.
InstructionSet instruction_set();

template <class Args>
class VectorKernel {
 public:
  using Function = void (*)(const Args&);

  constexpr VectorKernel() = default;

  void operator()(const Args& args) const {
    for (size_t i = static_cast<size_t>(instruction_set()); i > 0; --i) {
      if (functions_[i] != nullptr) {
        return functions_[i](args);
      }
    }
    functions_[0](args);
  }

  bool set(size_t instruction_set, Function function) {
    functions_[instruction_set] = function;
    return true;
  }

 private:
  std::array<Function, kInstructionSets> functions_ = {};
};

// In a source of csrc/kernels/vector: this copy's function of `kernel`.
#define OPENREG_REGISTER_VECTOR_KERNEL(kernel, function)                                           \
  [[maybe_unused]] static const bool registered_##kernel =                                         \
      (kernel).set(OPENREG_INSTRUCTION_SET, &(function));

} // namespace at::openreg

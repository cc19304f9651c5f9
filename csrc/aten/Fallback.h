#pragma once

// The boxed fallback as a function, for registrations that take it in some cases.

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <ATen/native/CPUFallback.h>
#include <torch/library.h>

#include "runtime/Exception.h"

namespace at::openreg {

OPENREG_API void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack);

// The operator `Op` (at::_ops::x) by the fallback: synchronous, with the CPU's
// own checks and messages.
template <class Op, class... A>
decltype(auto) call_fallback(A&&... args) {
  return at::native::call_fallback_fn<&fallback, Op>::call(std::forward<A>(args)...);
}

// Registers the fallback in `library`, which is ATen's for the layout key
// `device` (SparsePrivateUse1, ...), for each of ATen's operators that has a
// kernel of its own for `cpu` (SparseCPU, ...). ATen's composite kernels, which
// know no layout, would go before a fallback for the key. What has a kernel for
// `device` already keeps it.
OPENREG_API void
fall_back_for_the_rest(torch::Library& library, c10::DispatchKey cpu, c10::DispatchKey device);

} // namespace at::openreg

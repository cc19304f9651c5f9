#pragma once

// The boxed fallback as a function, for registrations that take it in some cases.

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <ATen/native/CPUFallback.h>

#include "runtime/Exception.h"

namespace at::openreg {

OPENREG_API void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack);

// The operator `Op` (at::_ops::x) by the fallback: synchronous, with the CPU's
// own checks and messages.
template <class Op, class... A>
decltype(auto) call_fallback(A&&... args) {
  return at::native::call_fallback_fn<&fallback, Op>::call(std::forward<A>(args)...);
}

} // namespace at::openreg

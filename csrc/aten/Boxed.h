#pragma once

// Any operator as an asynchronous launch, by its boxed CPU kernel.

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <ATen/native/CPUFallback.h>

#include "runtime/Exception.h"

namespace at::openreg {

// Launches the operator's CPU kernel on the current stream where a rehearsal
// (Note [Rehearsal]) can tell what it returns; else takes the synchronous
// fallback, which computes or refuses the call as the CPU does. For operators
// whose results' sizes do not depend on data.
OPENREG_API void launch_boxed(const c10::OperatorHandle& op, torch::jit::Stack* stack);

// The same for the operator `Op` (at::_ops::x).
template <class Op, class... A>
decltype(auto) call_boxed(A&&... args) {
  return at::native::call_fallback_fn<&launch_boxed, Op>::call(std::forward<A>(args)...);
}

} // namespace at::openreg

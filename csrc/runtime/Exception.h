#pragma once

// Device errors as the exceptions that PyTorch users expect.

#include <c10/macros/Macros.h>

#include "device/openreg.h"

#define OPENREG_API __attribute__((visibility("default")))

namespace c10::openreg {

// Throws for the calling thread's last device error `error`: out of memory as
// OutOfMemoryError, a kernel's own index/value/type/... error as that
// exception, anything else as AcceleratorError. `call` is the failed call's text.
[[noreturn]] OPENREG_API void throw_device_error(
    orError_t error, const char* call, const char* function, const char* file, uint32_t line);

} // namespace c10::openreg

#define OPENREG_CHECK(EXPR)                                                                        \
  do {                                                                                             \
    const orError_t openreg_error_ = (EXPR);                                                       \
    if (C10_UNLIKELY(openreg_error_ != orSuccess)) {                                               \
      ::c10::openreg::throw_device_error(openreg_error_, #EXPR, __func__, __FILE__, __LINE__);     \
    }                                                                                              \
  } while (0)

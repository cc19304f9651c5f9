#pragma once

#include "openreg.h"
#include "openreg_ipc.h"
#include "openreg_watchdog.h"

#define OR_LIKELY(x) __builtin_expect(!!(x), 1)
#define OR_UNLIKELY(x) __builtin_expect(!!(x), 0)

#define OR_TRY(expression)                                                                         \
  do {                                                                                             \
    orError_t error_ = (expression);                                                               \
    if (OR_UNLIKELY(error_ != orSuccess)) {                                                        \
      return error_;                                                                               \
    }                                                                                              \
  } while (0)

namespace openreg {

// Leaves code and message for orGetLastError / orGetLastErrorMessage in the
// calling thread and returns the code.
orError_t fail(orError_t code, const char* format, ...) __attribute__((format(printf, 2, 3), cold));

inline bool isLaunchError(orError_t code) {
  return code >= orErrorLaunchFailure && code <= orErrorProcessDied;
}

} // namespace openreg

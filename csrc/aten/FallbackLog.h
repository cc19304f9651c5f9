#pragma once

// Which operators took the synchronous fallback, and what to do when one does.

#include <c10/core/Device.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "runtime/Exception.h"

namespace at::openreg {

// Counts the operator and follows OPENREG_FALLBACK: "allow" (the default) does
// nothing more, "warn" warns at an operator's first time, "error" raises
// NotImplementedError.
OPENREG_API void log_fallback(const std::string& op);

// Operators with their counts since the start or the last reset, most used first.
OPENREG_API std::vector<std::pair<std::string, int64_t>> fallback_counts();
OPENREG_API void reset_fallback_counts();

// "allow", "warn" or "error"; raises ValueError for anything else.
OPENREG_API void set_fallback_mode(const std::string& mode);
OPENREG_API std::string get_fallback_mode();

} // namespace at::openreg

#pragma once

// Ranges that a program marks in its profile, as torch.cuda.nvtx does for an
// external profiler. They are PyTorch's own user annotations: whichever profiler
// runs sees them, and with none on they cost a test.

#include <cstdint>
#include <string>

#include "runtime/Exception.h"

namespace c10::openreg {

// Opens a range on the calling thread, inside those open there; the depth it has,
// from 0.
OPENREG_API int range_push(const std::string& message);
// Ends the innermost one; the depth it had, -1 if there is none.
OPENREG_API int range_pop();

// A range that any thread may end.
OPENREG_API uint64_t range_start(const std::string& message);
// Raises if there is no such range.
OPENREG_API void range_end(uint64_t range);

// An instant.
OPENREG_API void range_mark(const std::string& message);

} // namespace c10::openreg

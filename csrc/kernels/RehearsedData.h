#pragma once

namespace at::openreg {

// What the calling thread's rehearsal (ZeroAliases) fills its tensors with: ones
// in place of zeros where this is set.
bool& rehearses_with_ones();

} // namespace at::openreg

#pragma once

// Copies whose two sides are not in one device's memory.

#include <ATen/core/Tensor.h>

#include "runtime/Exception.h"

namespace at::openreg {

// A kernel: at::native::copy_ that lasts as long as the link between the two
// memories needs for the source's bytes (OPENREG_PROFILE).
OPENREG_API at::Tensor& copy_over_link(at::Tensor& self, const at::Tensor& src, bool non_blocking);

} // namespace at::openreg

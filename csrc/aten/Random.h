#pragma once

// Operators that draw random numbers: from a generator argument to the CPU
// generator that the launch draws from (Note [Random numbers]).

#include "runtime/Generator.h"

namespace at::openreg {

// The device generator `generator`, or the default one of `device`. The caller
// launches on the current stream of `device` while it holds the result.
OPENREG_API OpenRegGeneratorImpl::Draw draw_from(const std::optional<at::Generator>& generator,
                                                 c10::DeviceIndex device);

} // namespace at::openreg

#pragma once

// Kernels that torch.compile generates at run time, launched as any other.

#include <cstdint>
#include <vector>

#include "kernels/AliasPool.h"

namespace at::openreg {

// Reads its arguments, eight bytes each: a tensor's first element's address in
// memory that a kernel may use, an int64 or a double.
using GeneratedKernel = void (*)(const uint64_t* arguments);

// Queues kernel(arguments) on the current stream of `device`. Argument i is
// tensors[i], or if that is undefined numbers[i]. `name` lives for ever.
OPENREG_API void launch_generated(c10::DeviceIndex device,
                                  const char* name,
                                  GeneratedKernel kernel,
                                  std::vector<TensorArg> tensors,
                                  std::vector<uint64_t> numbers);

} // namespace at::openreg

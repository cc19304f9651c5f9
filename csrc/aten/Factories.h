#pragma once

// New device tensors, for operators that allocate their outputs.

#include <ATen/core/Tensor.h>
#include <c10/core/TensorOptions.h>

#include "runtime/Exception.h"

namespace at::openreg {

OPENREG_API at::Tensor empty_strided_on(c10::Device device,
                                        c10::IntArrayRef sizes,
                                        c10::IntArrayRef strides,
                                        at::ScalarType dtype);

OPENREG_API at::Tensor empty_on(c10::Device device,
                                c10::IntArrayRef sizes,
                                at::ScalarType dtype,
                                at::MemoryFormat memory_format = at::MemoryFormat::Contiguous);

} // namespace at::openreg

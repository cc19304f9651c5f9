#pragma once

// Growing device storage in place.

#include <ATen/core/Tensor.h>
#include <c10/util/OptionalArrayRef.h>

#include "runtime/Exception.h"

namespace at::openreg {

// Sets sizes and strides (nullopt: contiguous) and grows the storage to fit; the
// bytes it had are kept, copied in stream order. Storages never shrink.
OPENREG_API void
resize_tensor_impl(c10::TensorImpl* impl, at::IntArrayRef sizes, at::OptionalIntArrayRef strides);

} // namespace at::openreg

#pragma once

// The dtypes that a device has. Every new device tensor asks, and
// torch.accelerator.get_device_capability.

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <atomic>

#include "runtime/Exception.h"

namespace c10::openreg {

// Dtypes that are no hardware's (bits, quantized ones) are never missing.
OPENREG_API bool has_dtype(DeviceIndex device, ScalarType dtype);

// True also while it is not known.
extern OPENREG_API std::atomic<bool> some_dtype_is_missing;
OPENREG_API void check_dtype_of_device(DeviceIndex device, ScalarType dtype);

// Raises NotImplementedError unless tensors of the device may have the dtype.
inline void check_dtype(DeviceIndex device, ScalarType dtype) {
  if (C10_UNLIKELY(some_dtype_is_missing.load(std::memory_order_relaxed))) {
    check_dtype_of_device(device, dtype);
  }
}

} // namespace c10::openreg

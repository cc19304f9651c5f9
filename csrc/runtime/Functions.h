#pragma once

// Devices: how many, which one is current. PyTorch's guard, hooks and Python
// module all ask here.

#include <c10/core/Device.h>

#include "runtime/Exception.h"

namespace c10::openreg {

// Never throws; 0 when the device library cannot be used.
OPENREG_API DeviceIndex device_count() noexcept;

// The calling thread's current device.
OPENREG_API DeviceIndex current_device();
OPENREG_API void set_device(DeviceIndex device);
OPENREG_API DeviceIndex exchange_device(DeviceIndex device);

// Raises for an index that is not a visible device ("openreg:7: ...").
// Takes any integer, so that what a caller asked for can be named.
OPENREG_API void check_device(int64_t device);

// `device` with its index, the current device's where it has none.
OPENREG_API Device with_index(Device device);

OPENREG_API void device_synchronize(DeviceIndex device);

} // namespace c10::openreg

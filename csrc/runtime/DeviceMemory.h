#pragma once

// Memory of a given device from the device library, whatever device is current.

#include <utility>
#include <vector>

#include "runtime/Functions.h"

namespace c10::openreg {

// nullptr if the device has not that much; raises for any other failure.
void* device_malloc(DeviceIndex device, size_t size);

// Waits for the device's work first. Frees all even if one fails, then raises.
void device_free(const std::vector<void*>& pointers);

// Does not wait, and so may be called by a running kernel: the memory must not
// be used by any work. It counts as free at once.
void device_free_unused(DeviceIndex device, const std::vector<void*>& pointers);

size_t device_capacity(DeviceIndex device);
// Free and total bytes.
std::pair<size_t, size_t> device_memory_info(DeviceIndex device);

} // namespace c10::openreg

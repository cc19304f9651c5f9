#pragma once

// What happens when a device has no memory left: observers are told, then
// torch.OutOfMemoryError is raised with all one needs to see why.

#include <functional>

#include <c10/core/Device.h>

#include "runtime/Exception.h"

namespace c10::openreg {

struct OutOfMemory {
  DeviceIndex device;
  size_t tried; // bytes
  size_t total;
  size_t free;
  size_t allowed; // by the memory fraction
  size_t allocated;
  size_t reserved;
};

// Called on the thread that raises, with no lock held; must not throw.
using OutOfMemoryObserver = std::function<void(const OutOfMemory&)>;
OPENREG_API void attach_out_of_memory_observer(OutOfMemoryObserver observer);

[[noreturn]] void raise_out_of_memory(const OutOfMemory& what);

} // namespace c10::openreg

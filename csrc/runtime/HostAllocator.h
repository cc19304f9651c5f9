#pragma once

// Pinned host memory, which copies from and to the device may use
// asynchronously: what pin_memory() and DataLoader ask for.

#include <ATen/core/CachingHostAllocator.h>

#include "runtime/Stream.h"

namespace at::openreg {

// Caches; registered for PrivateUse1 (at::getHostAllocator).
OPENREG_API at::HostAllocator* get_host_allocator();

// Keeps pinned memory from reuse until the work now queued on the stream is
// done; every asynchronous copy must call it. `context` is the DataPtr's. False
// if the memory is not ours.
OPENREG_API bool record_event(void* ptr, void* context, c10::openreg::OpenRegStream stream);

// Also true inside an allocation, and for memory pinned by others.
OPENREG_API bool is_pinned(const void* ptr);

} // namespace at::openreg

#pragma once

// Storages whose memory other processes can open. See
// Note [Memory shared between processes].

#include <c10/core/Storage.h>

#include "runtime/Exception.h"

namespace c10::openreg {

// A new file descriptor of the storage's memory. The first call moves the
// storage into shared memory, so that its address changes; all views follow.
// Waits for the device, so that the receiver finds what was queued so far.
OPENREG_API int share_storage(const Storage& storage);

// The storage behind a descriptor, which stays the caller's.
OPENREG_API Storage open_shared_storage(int file, DeviceIndex device);

} // namespace c10::openreg

#ifndef OPENREG_KERNEL_H_
#define OPENREG_KERNEL_H_

// For device code only (csrc/kernels): how a kernel of the emulated device
// reaches the bytes behind a device address. Host code has no business here,
// and a vendor's device has no counterpart of it.

#include "openreg.h"

#ifdef __cplusplus
extern "C" {
#endif

// Note [Device addresses]
// All devices' addresses lie in one reserved range that is never accessible.
// The bytes of address a are at a + orBackingOffset, in ordinary memory. So a
// kernel adds a constant, and a host access to a device pointer always faults.
// Constant once the library is initialised; 0 before.
extern OR_API ptrdiff_t orBackingOffset;
extern OR_API uintptr_t orDeviceRangeBegin;
extern OR_API uintptr_t orDeviceRangeEnd;

static inline int orIsDeviceAddress(const void* pointer) {
  uintptr_t address = (uintptr_t)pointer;
  return address >= orDeviceRangeBegin && address < orDeviceRangeEnd;
}

// The address of the bytes behind a device address.
static inline void* orBacking(const void* device_pointer) {
  return (char*)(uintptr_t)device_pointer + orBackingOffset;
}

// The device address whose bytes are at a backing address.
static inline void* orDeviceAddress(const void* backing) {
  return (char*)(uintptr_t)backing - orBackingOffset;
}

#ifdef __cplusplus
} // extern "C"
#endif

#endif // OPENREG_KERNEL_H_

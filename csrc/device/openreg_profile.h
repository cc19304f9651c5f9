#pragma once

// What a device's profile (OPENREG_PROFILE) adds to openreg.h: the types that it
// has, and how work that does not run on a worker keeps to its speed.

#include "openreg.h"

#if defined(__cplusplus)
extern "C" {
#endif

typedef enum orDtype {
  orDtypeBool = 1 << 0,
  orDtypeUint8 = 1 << 1,
  orDtypeInt8 = 1 << 2,
  orDtypeUint16 = 1 << 3,
  orDtypeInt16 = 1 << 4,
  orDtypeUint32 = 1 << 5,
  orDtypeInt32 = 1 << 6,
  orDtypeUint64 = 1 << 7,
  orDtypeInt64 = 1 << 8,
  orDtypeFloat4E2m1fnX2 = 1 << 9,
  orDtypeFloat8E4m3fn = 1 << 10,
  orDtypeFloat8E4m3fnuz = 1 << 11,
  orDtypeFloat8E5m2 = 1 << 12,
  orDtypeFloat8E5m2fnuz = 1 << 13,
  orDtypeFloat8E8m0fnu = 1 << 14,
  orDtypeFloat16 = 1 << 15,
  orDtypeBfloat16 = 1 << 16,
  orDtypeFloat32 = 1 << 17,
  orDtypeFloat64 = 1 << 18,
  orDtypeComplex32 = 1 << 19,
  orDtypeComplex64 = 1 << 20,
  orDtypeComplex128 = 1 << 21,
  orDtypeAll = (1 << 22) - 1,
} orDtype;

// The types that the device computes with, a set of orDtype.
OR_API orError_t orDeviceGetDtypes(unsigned* dtypes, int device);

// Work of a device that the calling thread does in its place, between begin and
// end: the end returns when the device would have been done. Ends in reverse
// order of the begins, on the same thread. The fields are the library's.
typedef struct orThrottle {
  int device; // -1: not throttled
  double share;
  uint64_t begin;
  uint64_t link; // nanoseconds
  struct orThrottle* outer;
} orThrottle;
OR_API void orThrottleBegin(orThrottle* throttle, int device);
OR_API void orThrottleEnd(orThrottle* throttle);

// To be called by a kernel that copies over a link itself, with the addresses
// where it finds the bytes: makes it last as long as a copy of `size` bytes.
// Does nothing outside a kernel, or if both are in one device's memory.
OR_API void orThrottleTransfer(const void* dst, const void* src, size_t size);

#if defined(__cplusplus)
}
#endif

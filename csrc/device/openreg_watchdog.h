#ifndef OPENREG_WATCHDOG_H_
#define OPENREG_WATCHDOG_H_

// The watchdog: work that does not end within OPENREG_LAUNCH_TIMEOUT seconds is
// reported, and becomes an error instead of a hang.
//
// The work itself goes on: nothing can end it. While it runs it holds its
// device, and every device whose streams wait for it: calls that wait for such
// a device, or that need it, return orErrorLaunchTimeout without waiting, also
// those that were waiting already. What is queued stays queued. Once the work
// has ended the devices go on, unless OPENREG_STICKY_ERRORS=1 keeps the error
// until orDeviceReset, which succeeds from then on.

#include "openreg.h"

#ifdef __cplusplus
extern "C" {
#endif

// The error: another value of orError_t, among those of failed launches.
#define orErrorLaunchTimeout ((orError_t)107)

// The limit in nanoseconds, 0 without one. Does not initialise the library.
OR_API orError_t orGetLaunchTimeout(uint64_t* nanoseconds);

// How the layer above tells where a piece of work comes from.
typedef struct orLaunchOriginType {
  // On the thread that queues a kernel, copy, fill, host function or graph, if
  // there is a limit. May return NULL. Like the others, must not call this API.
  void* (*gather)(void);
  // Writes at most `capacity` bytes of text, lines that end with a newline, and
  // returns how many; on the watchdog's thread, which must not wait for others.
  size_t (*describe)(const void* origin, char* text, size_t capacity);
  // Ends the origin's life, on any thread.
  void (*release)(void* origin);
} orLaunchOriginType;

// For all later work; `type` must live for ever. NULL: nobody tells.
OR_API orError_t orSetLaunchOrigin(const orLaunchOriginType* type);

#ifdef __cplusplus
} // extern "C"
#endif

#endif // OPENREG_WATCHDOG_H_

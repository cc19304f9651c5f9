#pragma once

#include <atomic>
#include <cstdint>

#include "Config.h"
#include "Error.h"

// The library's life: initialisation at first use, fork, process exit.

namespace openreg {

// Everything that can turn a call off its fast path, in one word, so that the
// fast path tests it once. The low bits are the orTraceKinds that somebody
// subscribed to.
enum RuntimeFlag : uint32_t {
  kTraceKinds = orTraceAll,
  kUninitialized = 1u << 16,
  kForked = 1u << 17,      // this is a child of the process that initialised us
  kExiting = 1u << 18,     // exit() runs: workers start nothing any more
  kStickyError = 1u << 19, // a device has an error that stays, until reset or for now
  kLaunchBlocking = 1u << 20,
  kMemoryCheck = 1u << 21,
  kForking = 1u << 22,   // fork() runs: workers start nothing until it is done
  kCapturing = 1u << 23, // some stream is captured
  kWatched = 1u << 24,   // OPENREG_LAUNCH_TIMEOUT is set
};
extern std::atomic<uint32_t> runtimeFlags;

inline bool hasFlag(uint32_t flag) {
  return OR_UNLIKELY(runtimeFlags.load(std::memory_order_relaxed) & flag);
}

orError_t initialize();

// Every function that needs the devices begins with this.
inline orError_t ensureReady() {
  if (OR_LIKELY(!(runtimeFlags.load(std::memory_order_acquire) & (kUninitialized | kForked)))) {
    return orSuccess;
  }
  return initialize();
}

// The settings that the library was initialised with.
const Config& config();

// Whether the calling thread is the one in exit(). It must not wait for workers
// that will not run again.
bool isExitingThread();

} // namespace openreg

#include "Runtime.h"

#include <pthread.h>
#include <unistd.h>

#include <cstdlib>
#include <mutex>

#include "Device.h"
#include "Fault.h"
#include "Memory.h"
#include "Stream.h"
#include "Watchdog.h"

namespace openreg {

std::atomic<uint32_t> runtimeFlags{kUninitialized};

namespace {

// Never destroyed: workers and late callers outlive static destructors.
Config& mutableConfig() {
  static Config* config = new Config();
  return *config;
}

// A plain int: what a thread_local holds must not need its own initialisation
// in exit().
thread_local bool exitingThread = false;

// A kernel may hold a lock, or be in the first use of a static, of a library
// that the child wants to use too, where its thread does not exist: so no kernel
// runs during a fork(). One that runs longer than a second is not waited for.
constexpr uint64_t kForkTimeout = 1000000000;

std::mutex& forkMutex() {
  static std::mutex* mutex = new std::mutex();
  return *mutex;
}

void beforeFork() {
  if (hasFlag(kForked)) {
    return;
  }
  forkMutex().lock();
  runtimeFlags.fetch_or(kForking);
  waitForParkedWorkers(kForkTimeout);
}

void afterForkInParent() {
  if (hasFlag(kForked)) {
    return;
  }
  runtimeFlags.fetch_and(~uint32_t(kForking));
  resumeWorkers();
  forkMutex().unlock();
}

void afterForkInChild() {
  runtimeFlags.fetch_or(kForked);
}

// Kernels must not run while the static destructors of the libraries that they
// call do. Work that has not started is dropped, as at the end of any process
// that does not synchronise; what runs gets a second to end.
void atExit() {
  if (hasFlag(kForked)) {
    return;
  }
  exitingThread = true;
  runtimeFlags.fetch_or(kExiting);
  waitForParkedWorkers(1000000000);
}

} // namespace

const Config& config() {
  return mutableConfig();
}

bool isExitingThread() {
  return exitingThread;
}

orError_t initialize() {
  if (hasFlag(kForked)) {
    return fail(orErrorForked,
                "the device was initialised before fork() and cannot be used in the "
                "child process; start processes with the 'spawn' method, or do not use "
                "the device before forking");
  }
  static std::mutex mutex;
  std::lock_guard<std::mutex> guard(mutex);
  if (!hasFlag(kUninitialized)) {
    return orSuccess;
  }
  // Nothing stays behind a failure: the next call tries again.
  OR_TRY(readConfig(&mutableConfig()));
  for (const Profile& profile : config().profiles) {
    ThrottledRun::anyThrottle |= profile.compute < 1 || profile.link > 0;
  }
  if (config().launch_timeout) {
    OR_TRY(startWatchdog());
  }
  int count = static_cast<int>(config().visible_devices.size());
  OR_TRY(reserveWindows(count));
  createDevices();
  installFaultHandler();
  pthread_atfork(beforeFork, afterForkInParent, afterForkInChild);
  atexit(atExit);
  uint32_t flags = 0;
  if (config().launch_blocking) {
    flags |= kLaunchBlocking;
  }
  if (config().memory_check) {
    flags |= kMemoryCheck;
  }
  if (config().launch_timeout) {
    flags |= kWatched;
  }
  // Release: who sees the flag gone sees the devices. Trace subscriptions may
  // have been set before.
  runtimeFlags.fetch_or(flags);
  runtimeFlags.fetch_and(~uint32_t(kUninitialized), std::memory_order_acq_rel);
  return orSuccess;
}

} // namespace openreg

int orGetApiVersion(void) {
  return OR_API_VERSION;
}

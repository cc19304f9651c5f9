#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "Error.h"
#include "Memory.h"
#include "Runtime.h"

namespace openreg {

class Stream;

// One emulated device: its memory, its streams, its pending error.
class Device {
 public:
  Device(int ordinal, int physical);

  // Asynchronous errors; see Note [Asynchronous errors] in openreg.h.
  // Called by workers. The first error is kept.
  void recordError(orError_t code, const std::string& message);
  // Returns and clears the pending error. Sticky: returns and keeps it.
  orError_t takeError() {
    return OR_LIKELY(!error_pending_.load(std::memory_order_acquire)) ? orSuccess : takeErrorSlow();
  }
  // Work that hangs (Note [Watchdog]) holds the device: its error is returned
  // until endHold, and nobody waits. False if it did so already.
  bool hold(uint64_t hang, const std::string& message);
  void endHold(uint64_t hang);
  // Whether to wait at all; fails with the error of what holds the device.
  orError_t checkHold();
  bool isHeld() const {
    return OR_UNLIKELY(held_.load(std::memory_order_seq_cst));
  }
  // For calls that report only sticky errors.
  orError_t checkSticky() {
    return hasFlag(kStickyError) ? takeError() : orSuccess;
  }

  // The streams whose work must be waited for, destroyed ones included that
  // still have some. Each is a reference that the caller must release.
  std::vector<Stream*> referenceStreams();
  void addStream(Stream* stream);
  void removeStream(Stream* stream);

  // Waits for all work of all streams that is queued now. Fails only if called
  // from a worker of this device, which would wait for itself, and if the device
  // is held.
  orError_t waitForAll(const char* caller);
  orError_t reset();

  const int ordinal;  // what the API calls it
  const int physical; // which one it is without OPENREG_VISIBLE_DEVICES
  Heap heap;
  Stream* default_stream = nullptr;
  std::atomic<uint64_t> peers{0}; // bit p: access to device p is enabled

 private:
  orError_t takeErrorSlow();
  void clearError();
  orError_t failHeld();  // with the lock, if held
  void publishPending(); // with the lock
  static void publishSticky();

  std::mutex streams_mutex_;
  std::vector<Stream*> streams_;

  std::atomic<bool> error_pending_{false};
  std::mutex error_mutex_;
  orError_t error_ = orSuccess;
  std::string error_message_;

  struct Hold {
    uint64_t hang;
    std::string message;
    bool reported;
  };
  std::vector<Hold> holds_;
  std::atomic<bool> held_{false};
  std::atomic<bool> sticky_{false}; // held, or with an error that stays
};

void createDevices();
int deviceCount();
// The ordinal must be valid.
Device& deviceAt(int ordinal);

// The calling thread's current device. Fails if there is none at all.
orError_t currentDevice(Device** device);
orError_t deviceByOrdinal(const char* caller, const char* argument, int ordinal, Device** device);

} // namespace openreg

#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>

#include "Device.h"
#include "HandlePool.h"
#include "LaunchQueue.h"
#include "Runtime.h"
#include "Wait.h"
#include "Watchdog.h"
#include "openreg.h"

namespace openreg {

class Capture;

// A piece of work on its way into a queue; what Record keeps of it.
struct Work {
  uint32_t kind = Record::kUntraced;
  const char* name = nullptr;
  const orClosureType* type = nullptr;
  const void* pointer = nullptr;
  const void* source = nullptr;
  size_t size = 0;
  // Bytes copied behind the closure (staged copies); together at most
  // OR_INLINE_CLOSURE_SIZE.
  const void* attachment = nullptr;
  size_t attachment_size = 0;
  uint64_t correlation = 0; // newCorrelation(), where somebody may ask
  // Kernels, while somebody traces.
  const orMemoryRange* ranges = nullptr;
  size_t range_count = 0;
};

// The launch that a worker runs. orKernelFail may come from any thread that the
// kernel uses.
struct RunningLaunch {
  orLaunchContext context;
  std::mutex mutex;
  orError_t error;
  std::string message;
};

// Note [Streams and their workers]
// A stream is a queue (see Note [Launch queue]) and a thread, started with the
// first piece of work, that runs the queue's records in order. Progress is two
// counters: `issued` (stored by producers under the queue's lock) and
// `completed` (stored by the worker after a record and its closure have ended;
// release). Every wait in this library, of a host thread, of another stream's
// worker for an event, or of a producer for room, is a wait for completed to
// reach a number.
//
// Sleeping and waking, without a system call while both sides are busy:
//  - the worker sets `sleeping_` under the queue's lock after it has found the
//    queue empty there; a producer that finds it set clears it and wakes.
//  - a waiter first publishes the number it waits for in wake_at_, then looks at
//    completed; the worker first stores completed, then looks at wake_at_. All
//    four are sequentially consistent, so one of them sees the other.
//
// Destroying a stream takes its handle away; the worker runs what is queued and
// ends. The object lives while an event or a waiter refers to it.
class Stream : public Pooled {
 public:
  static Stream* create(Device* device, int priority, bool blocking = false);
  // Takes the handle away; false if it is gone.
  bool destroy(const void* handle);
  void recycle() {}

  // Queues work; ends the life of *closure if it succeeds. Waits while the
  // queue is full. `number` receives the work's place in `issued`.
  orError_t submit(const Work& work, void* closure, uint64_t* number = nullptr);

  uint64_t issued() const {
    return issued_.load(std::memory_order_acquire);
  }
  uint64_t completed() const {
    return completed_.load(std::memory_order_acquire);
  }
  bool isIdle() const {
    uint64_t done = completed(); // first: issued can only be ahead of it
    return issued() == done;
  }
  // Returns when completed >= number. Spins shortly, then sleeps. Fails, for
  // host threads only, without waiting any longer if the device is held.
  orError_t waitFor(uint64_t number);

  // For host calls that wait: fails from the device's own workers.
  orError_t synchronize(const char* caller);

  orStream_t handleOf() const {
    return public_handle_;
  }

  // Lets all who wait look again.
  void wakeWaiters();

  // The stream whose worker is the calling thread, or nullptr.
  static Stream* ofThisThread();

  // The worker itself waits for another process: nobody needs to wait for it.
  void setParked(bool parked) {
    parked_.store(parked);
  }

  RunningLaunch* running() {
    return &running_;
  }

  // On this stream's worker, as part of the running piece of work: runs another
  // one, whose closure stays alive, and records its error with the device.
  void runNested(Record* record);

  Device* device = nullptr;
  uint64_t id = 0;
  int priority = 0;
  bool blocking = false; // created with orStreamDefault
  StreamWatch watch;
  // The capture it takes part in. Only to compare without the captures' lock.
  std::atomic<Capture*> capture{nullptr};

 private:
  friend void waitForParkedWorkers(uint64_t timeout);

  orError_t startWorker(const char* caller);
  void work(); // the worker's loop
  void execute(Record* record, uint64_t number);
  // Without the end of the closure's life. Whether it is traced, then its end.
  bool run(Record* record, uint64_t number, orTraceRecord* end);
  void fail(Record* record, orError_t error);
  bool waitForWork(uint64_t head);
  void park();
  // What may come before a piece of work, or of a graph's.
  void prepare(const Record* record, uint64_t number, bool nested = false);
  void finish();

  orStream_t public_handle_ = nullptr;
  LaunchQueue queue_;

  // Under the queue's lock; issued_ is read by anybody.
  std::atomic<uint64_t> issued_{0};
  std::atomic<uint32_t> sleeping_{0};
  bool started_ = false;
  bool accepting_ = false; // started and not destroyed

  // Written by the worker only.
  alignas(64) std::atomic<uint64_t> completed_{0};

  // Polled by the worker, and seldom written.
  alignas(64) std::atomic<bool> closing_{false};
  std::atomic<uint64_t> wake_at_{UINT64_MAX};
  std::atomic<uint32_t> wake_count_{0}; // futex; grows with every wake
  std::mutex wake_mutex_;
  std::atomic<bool> parked_{false};
  SpinBudget idle_budget_;
  // Waits of host threads and of other workers: they last differently long.
  SpinBudget host_budget_;
  SpinBudget worker_budget_;
  RunningLaunch running_;
};

extern HandlePool<Stream> streamPool;

// NULL: the current device's default stream.
inline orError_t findStream(const char* caller, orStream_t handle, Stream** stream) {
  if (handle == nullptr) {
    Device* device;
    OR_TRY(currentDevice(&device));
    *stream = device->default_stream;
    return orSuccess;
  }
  *stream = streamPool.find(handle);
  if (OR_UNLIKELY(!*stream)) {
    fail(orErrorInvalidResourceHandle, "%s: stream %p does not exist or was destroyed", caller,
         static_cast<void*>(handle));
    return orErrorInvalidResourceHandle; // here, so that compilers see it
  }
  return orSuccess;
}

// The storage of a closure too large for the queue.
void* newHeapClosure(const orClosureType* type);
void freeHeapClosure(const orClosureType* type, void* closure);

// Queues work for a public call: enqueue trace, sticky errors, launch-blocking
// mode. As with orLaunch, the closure's life has ended if it returns success or
// an orErrorLaunch*.
orError_t submitTraced(Stream* stream, const Work& work, void* closure, uint64_t* number = nullptr);

// With kExiting or kForking set, no worker starts another piece of work. Waits
// until the running ones have ended, or themselves wait for another stream, at
// most `timeout` nanoseconds.
void waitForParkedWorkers(uint64_t timeout);
// To be called after kForking was cleared.
void resumeWorkers();

} // namespace openreg

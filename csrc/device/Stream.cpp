#include "Stream.h"

#include <cstring>
#include <new>

#include "Capture.h"
#include "Trace.h"

namespace openreg {

HandlePool<Stream> streamPool(0x5);

Stream* Stream::create(Device* device, int priority, bool blocking) {
  static std::atomic<uint64_t> lastId{0};
  Stream* stream = streamPool.create();
  if (!stream) {
    return nullptr;
  }
  stream->device = device;
  stream->id = lastId.fetch_add(1) + 1;
  stream->priority = priority;
  stream->blocking = blocking;
  stream->issued_.store(0, std::memory_order_relaxed);
  stream->completed_.store(0, std::memory_order_relaxed);
  stream->sleeping_.store(0, std::memory_order_relaxed);
  stream->started_ = stream->accepting_ = false;
  stream->closing_.store(false, std::memory_order_relaxed);
  stream->wake_at_.store(UINT64_MAX, std::memory_order_relaxed);
  stream->parked_.store(false, std::memory_order_relaxed);
  stream->watch.reset();
  device->addStream(stream);
  stream->public_handle_ = reinterpret_cast<orStream_t>(streamPool.handleFor(stream));
  streamPool.publish(stream);
  return stream;
}

bool Stream::destroy(const void* stale) {
  if (!streamPool.retire(this, stale)) {
    return false;
  }
  queue_.lock.lock();
  bool started = started_;
  accepting_ = false;
  closing_.store(true, std::memory_order_release);
  bool wake = sleeping_.load(std::memory_order_relaxed) != 0;
  sleeping_.store(0, std::memory_order_release);
  queue_.lock.unlock();
  if (wake) {
    futexWake(&sleeping_, 1);
  }
  if (!started) {
    finish();
  }
  return true;
}

// The last act: of the worker, or of destroy if there never was one. Drops the
// handle's reference.
void Stream::finish() {
  queue_.release();
  device->removeStream(this);
  streamPool.release(this);
}

namespace {

size_t heapAlignment(const orClosureType* type) {
  return type->alignment < 16 ? 16 : type->alignment;
}

} // namespace

void* newHeapClosure(const orClosureType* type) {
  return ::operator new(type->size, std::align_val_t(heapAlignment(type)), std::nothrow);
}

void freeHeapClosure(const orClosureType* type, void* closure) {
  ::operator delete(closure, std::align_val_t(heapAlignment(type)));
}

orError_t Stream::submit(const Work& work, void* closure, uint64_t* number) {
  const orClosureType* type = work.type;
  size_t inline_size = type->size + work.attachment_size;
  void* heap = nullptr;
  auto failed = [&](orError_t error) {
    if (heap) {
      freeHeapClosure(type, heap);
    }
    return error;
  };
  if (OR_UNLIKELY(inline_size > OR_INLINE_CLOSURE_SIZE)) {
    heap = newHeapClosure(type);
    if (!heap) {
      return openreg::fail(orErrorHostMemoryAllocation,
                           "%s: no host memory for a closure of %zu bytes", work.name, type->size);
    }
    inline_size = 0;
  }
  size_t bytes = LaunchQueue::bytesFor(inline_size);

  queue_.lock.lock();
  if (OR_UNLIKELY(!accepting_)) {
    orError_t error = startWorker(work.name);
    if (error != orSuccess) {
      queue_.lock.unlock();
      return failed(error);
    }
  }
  Record* record;
  while (OR_UNLIKELY(!(record = queue_.reserve(bytes)))) {
    // Wait until half of what is queued is done, not for every single record.
    uint64_t done = completed();
    uint64_t queued = issued_.load(std::memory_order_relaxed) - done;
    uint64_t half = done + (queued + 1) / 2;
    streamPool.addReference(this); // it is accepting_, so it is not released yet
    queue_.lock.unlock();
    bool endless = ofThisThread() == this || (hasFlag(kExiting) && isExitingThread());
    orError_t held = endless ? orSuccess : waitFor(half);
    if (OR_UNLIKELY(held != orSuccess)) {
      streamPool.release(this);
      if (type->destroy) {
        type->destroy(closure);
      }
      return failed(held);
    }
    queue_.lock.lock();
    if (OR_UNLIKELY(endless || !accepting_)) {
      bool destroyed = !accepting_;
      queue_.lock.unlock();
      streamPool.release(this);
      return failed(
          destroyed
              ? openreg::fail(orErrorInvalidResourceHandle,
                              "%s: the stream was destroyed meanwhile", work.name)
              : openreg::fail(
                    orErrorNotSupported,
                    "%s: the stream's queue is full and would not empty: it was called %s",
                    work.name, hasFlag(kExiting) ? "during exit" : "by work of the same stream"));
    }
    streamPool.release(this); // never the last: the handle's is there while accepting_
  }
  record->kind = work.kind;
  record->name = work.name;
  record->type = type;
  record->pointer = work.pointer;
  record->source = work.source;
  record->size = work.size;
  void* target = heap ? heap : record->inlineClosure();
  record->closure = target;
  record->correlation = work.correlation;
  if (type->move) {
    type->move(target, closure);
  } else {
    memcpy(target, closure, type->size);
  }
  if (work.attachment_size) {
    memcpy(static_cast<char*>(target) + type->size, work.attachment, work.attachment_size);
  }
  uint64_t place = issued_.load(std::memory_order_relaxed) + 1;
  issued_.store(place, std::memory_order_release);
  queue_.publish();
  bool wake = OR_UNLIKELY(sleeping_.load(std::memory_order_relaxed));
  if (wake) {
    sleeping_.store(0, std::memory_order_release);
  }
  queue_.lock.unlock();
  if (wake) {
    futexWake(&sleeping_, 1);
  }
  if (number) {
    *number = place;
  }
  return orSuccess;
}

orError_t Stream::waitFor(uint64_t number) {
  if (completed() >= number) {
    return orSuccess;
  }
  SpinBudget& budget = ofThisThread() ? worker_budget_ : host_budget_;
  if (budget.spin([&] { return completed() >= number; })) {
    return orSuccess;
  }
  for (;;) {
    uint32_t count = wake_count_.load(std::memory_order_acquire);
    {
      std::lock_guard<std::mutex> guard(wake_mutex_);
      if (number < wake_at_.load(std::memory_order_relaxed)) {
        wake_at_.store(number, std::memory_order_seq_cst);
      }
    }
    if (completed_.load(std::memory_order_seq_cst) >= number) {
      return orSuccess;
    }
    // The workers will not run again. Who exits must go on; a worker goes to
    // park; other threads would use results that never come.
    if (hasFlag(kExiting) && (isExitingThread() || ofThisThread())) {
      return orSuccess;
    }
    Stream* waiting = ofThisThread();
    if (device->isHeld() && !waiting) {
      OR_TRY(device->checkHold());
    }
    if (waiting) {
      waiting->parked_.store(true, std::memory_order_relaxed);
    }
    futexWait(&wake_count_, count);
    if (waiting) {
      waiting->parked_.store(false, std::memory_order_relaxed);
    }
  }
}

void Stream::wakeWaiters() {
  {
    // Those that wait for more will say so again.
    std::lock_guard<std::mutex> guard(wake_mutex_);
    wake_at_.store(UINT64_MAX, std::memory_order_relaxed);
    wake_count_.fetch_add(1, std::memory_order_release);
  }
  futexWake(&wake_count_, INT32_MAX);
}

orError_t Stream::synchronize(const char* caller) {
  if (isIdle()) {
    return orSuccess;
  }
  if (OR_UNLIKELY(ofThisThread() == this)) {
    return openreg::fail(orErrorNotSupported,
                         "%s: called by work of the same stream, which would wait for itself",
                         caller);
  }
  // Another thread may destroy the stream while this one waits.
  if (streamPool.tryReference(this, reinterpret_cast<uint64_t>(public_handle_))) {
    orError_t error = waitFor(issued());
    streamPool.release(this);
    return error;
  }
  return orSuccess;
}

orError_t submitTraced(Stream* stream, const Work& work, void* closure, uint64_t* number) {
  constexpr uint32_t kSlow = kStickyError | kLaunchBlocking | kCapturing | kWatched;
  if (OR_LIKELY(!hasFlag(kSlow | (work.kind & kTraceKinds)))) {
    return stream->submit(work, closure, number);
  }
  orError_t captured;
  if (hasFlag(kCapturing) && captureWork(stream, work, closure, &captured)) {
    return captured;
  }
  orError_t sticky = stream->device->checkSticky();
  if (sticky != orSuccess) {
    if (work.type->destroy) {
      work.type->destroy(closure);
    }
    return sticky;
  }
  if (isTraced(static_cast<orTraceKind>(work.kind & kTraceKinds))) {
    orTraceRecord record{};
    record.kind = static_cast<orTraceKind>(work.kind);
    record.phase = orTraceEnqueue;
    record.name = work.name;
    record.device = stream->device->ordinal;
    record.stream = stream->id;
    record.correlation = work.correlation;
    record.time = nowNanoseconds();
    record.pointer = work.pointer;
    record.source = work.source;
    record.size = work.size;
    record.ranges = work.ranges;
    record.range_count = work.range_count;
    trace(record);
  }
  uint64_t place;
  if (hasFlag(kWatched)) {
    std::shared_ptr<void> origin = gatherOrigin(work);
    OR_TRY(stream->submit(work, closure, &place));
    stream->watch.add(place, std::move(origin));
  } else {
    OR_TRY(stream->submit(work, closure, &place));
  }
  if (number) {
    *number = place;
  }
  if (hasFlag(kLaunchBlocking) && Stream::ofThisThread() != stream) {
    OR_TRY(stream->waitFor(place));
    return stream->device->takeError();
  }
  return orSuccess;
}

} // namespace openreg

using namespace openreg;

namespace {

constexpr int kLeastPriority = 0;
constexpr int kGreatestPriority = -1;

} // namespace

orError_t orStreamCreate(orStream_t* stream) {
  return orStreamCreateWithPriority(stream, orStreamDefault, kLeastPriority);
}

orError_t orStreamCreateWithPriority(orStream_t* stream, unsigned flags, int priority) {
  OR_TRY(ensureReady());
  Device* device;
  OR_TRY(currentDevice(&device));
  if (!stream) {
    return fail(orErrorInvalidValue, "orStreamCreate: stream is NULL");
  }
  if (flags != orStreamDefault && flags != orStreamNonBlocking) {
    return fail(orErrorInvalidValue,
                "orStreamCreateWithPriority: flags must be orStreamDefault or "
                "orStreamNonBlocking, got %u",
                flags);
  }
  // As CUDA does: beyond the range means its end.
  priority = priority < kGreatestPriority ? kGreatestPriority : priority;
  priority = priority > kLeastPriority ? kLeastPriority : priority;
  Stream* created = Stream::create(device, priority, flags == orStreamDefault);
  if (!created) {
    return fail(orErrorNotSupported, "orStreamCreate: too many streams exist");
  }
  *stream = created->handleOf();
  return orSuccess;
}

orError_t orDeviceGetStreamPriorityRange(int* least, int* greatest) {
  OR_TRY(ensureReady());
  if (!least || !greatest) {
    return fail(orErrorInvalidValue, "orDeviceGetStreamPriorityRange: %s is NULL",
                least ? "greatest" : "least");
  }
  *least = kLeastPriority;
  *greatest = kGreatestPriority;
  return orSuccess;
}

orError_t orStreamDestroy(orStream_t stream) {
  OR_TRY(ensureReady());
  if (!stream) {
    return fail(orErrorInvalidResourceHandle,
                "orStreamDestroy: a default stream cannot be destroyed");
  }
  Stream* found;
  OR_TRY(findStream("orStreamDestroy", stream, &found));
  if (found == found->device->default_stream) {
    return fail(orErrorInvalidResourceHandle,
                "orStreamDestroy: a default stream cannot be destroyed");
  }
  OR_TRY(checkCaptureOf("orStreamDestroy", found));
  if (!found->destroy(stream)) {
    return fail(orErrorInvalidResourceHandle,
                "orStreamDestroy: stream %p was destroyed by another thread",
                static_cast<void*>(stream));
  }
  return orSuccess;
}

orError_t orDeviceGetDefaultStream(orStream_t* stream, int device) {
  OR_TRY(ensureReady());
  Device* found;
  OR_TRY(deviceByOrdinal("orDeviceGetDefaultStream", "device", device, &found));
  if (!stream) {
    return fail(orErrorInvalidValue, "orDeviceGetDefaultStream: stream is NULL");
  }
  *stream = found->default_stream->handleOf();
  return orSuccess;
}

orError_t orStreamGetDevice(orStream_t stream, int* device) {
  OR_TRY(ensureReady());
  Stream* found;
  OR_TRY(findStream("orStreamGetDevice", stream, &found));
  if (!device) {
    return fail(orErrorInvalidValue, "orStreamGetDevice: device is NULL");
  }
  *device = found->device->ordinal;
  return orSuccess;
}

orError_t orStreamGetPriority(orStream_t stream, int* priority) {
  OR_TRY(ensureReady());
  Stream* found;
  OR_TRY(findStream("orStreamGetPriority", stream, &found));
  if (!priority) {
    return fail(orErrorInvalidValue, "orStreamGetPriority: priority is NULL");
  }
  *priority = found->priority;
  return orSuccess;
}

orError_t orStreamGetId(orStream_t stream, uint64_t* id) {
  OR_TRY(ensureReady());
  Stream* found;
  OR_TRY(findStream("orStreamGetId", stream, &found));
  if (!id) {
    return fail(orErrorInvalidValue, "orStreamGetId: id is NULL");
  }
  *id = found->id;
  return orSuccess;
}

orError_t orStreamQuery(orStream_t stream) {
  OR_TRY(ensureReady());
  Stream* found;
  OR_TRY(findStream("orStreamQuery", stream, &found));
  OR_TRY(checkWait("orStreamQuery", found));
  bool idle = found->isIdle();
  OR_TRY(found->device->takeError());
  return idle ? orSuccess : orErrorNotReady;
}

orError_t orStreamSynchronize(orStream_t stream) {
  OR_TRY(ensureReady());
  Stream* found;
  OR_TRY(findStream("orStreamSynchronize", stream, &found));
  OR_TRY(checkWait("orStreamSynchronize", found));
  SyncTrace trace("streamSynchronize", found->device->ordinal, found->id);
  OR_TRY(found->synchronize("orStreamSynchronize"));
  return trace.end(found->device->takeError());
}

orError_t orStreamGetProgress(orStream_t stream, uint64_t* issued, uint64_t* completed) {
  OR_TRY(ensureReady());
  Stream* found;
  OR_TRY(findStream("orStreamGetProgress", stream, &found));
  if (OR_UNLIKELY(!issued || !completed)) {
    return fail(orErrorInvalidValue, "orStreamGetProgress: %s is NULL",
                issued ? "completed" : "issued");
  }
  // In this order: issued read later cannot be behind.
  *completed = found->completed();
  *issued = found->issued();
  return orSuccess;
}

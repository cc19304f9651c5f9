#include "Event.h"

#include <mutex>
#include <utility>

#include "Capture.h"
#include "Stream.h"
#include "Trace.h"

namespace openreg {
namespace {

HandlePool<Event> eventPool(0xa);

orError_t findEvent(const char* caller, orEvent_t handle, Event** event) {
  *event = eventPool.find(handle);
  if (OR_UNLIKELY(!*event)) {
    fail(orErrorInvalidResourceHandle, "%s: event %p does not exist or was destroyed", caller,
         static_cast<void*>(handle));
    return orErrorInvalidResourceHandle; // here, so that compilers see it
  }
  return orSuccess;
}

// The event's point with a reference of its own.
Point pointOf(Event* event) {
  std::lock_guard<SpinLock> guard(event->lock);
  if (event->point.stream) {
    streamPool.addReference(event->point.stream);
  }
  return event->point;
}

void releasePoint(const Point& point) {
  if (point.stream) {
    streamPool.release(point.stream);
  }
}

// Writes the time of one record, unless the event has been recorded again.
struct Stamp {
  Event* event; // a reference
  uint64_t record;
};

const orClosureType stampType = {
    sizeof(Stamp),
    alignof(Stamp),
    nullptr,
    [](void* closure, const orLaunchContext*) {
      auto* stamp = static_cast<Stamp*>(closure);
      uint64_t now = nowNanoseconds();
      std::lock_guard<SpinLock> guard(stamp->event->lock);
      if (stamp->event->records == stamp->record) {
        stamp->event->time = now;
      }
      return orSuccess;
    },
    [](void* closure) { eventPool.release(static_cast<Stamp*>(closure)->event); },
    nullptr};

// Holds a stream up until another has reached a point.
const orClosureType waitType = {sizeof(Point),
                                alignof(Point),
                                nullptr,
                                [](void* closure, const orLaunchContext*) {
                                  auto* point = static_cast<Point*>(closure);
                                  if (point->stream) {
                                    point->stream->waitFor(point->number);
                                  }
                                  return orSuccess;
                                },
                                [](void* closure) { releasePoint(*static_cast<Point*>(closure)); },
                                nullptr};

} // namespace

bool isReached(const Point& point) {
  return !point.stream || point.stream->completed() >= point.number;
}

orError_t submitWait(Stream* on, Point point) {
  Work work;
  work.kind = orTraceEventWait;
  work.name = "eventWait";
  work.type = &waitType;
  work.correlation = newCorrelation();
  return submitTraced(on, work, &point);
}

void Event::recycle() {
  Point last;
  {
    std::lock_guard<SpinLock> guard(lock);
    std::swap(last, point);
  }
  releasePoint(last);
}

void destroyEventsOf(Device* device) {
  eventPool.forEach([device](Event* event, const void* handle) {
    if (event->device == device && eventPool.retire(event, handle)) {
      eventPool.release(event);
    }
  });
}

} // namespace openreg

using namespace openreg;

orError_t orEventCreate(orEvent_t* event, unsigned flags) {
  OR_TRY(ensureReady());
  Device* device;
  OR_TRY(currentDevice(&device));
  if (!event) {
    return fail(orErrorInvalidValue, "orEventCreate: event is NULL");
  }
  if (flags & ~unsigned(orEventDisableTiming)) {
    return fail(orErrorInvalidValue,
                "orEventCreate: flags must be orEventDefault or orEventDisableTiming, "
                "got %u",
                flags);
  }
  Event* created = eventPool.create();
  if (!created) {
    return fail(orErrorNotSupported, "orEventCreate: too many events exist");
  }
  created->device = device;
  created->keeps_time = !(flags & orEventDisableTiming);
  created->records = 0;
  created->capture.store(0, std::memory_order_relaxed);
  created->time = 0;
  *event = reinterpret_cast<orEvent_t>(eventPool.handleFor(created));
  eventPool.publish(created);
  return orSuccess;
}

orError_t orEventDestroy(orEvent_t event) {
  OR_TRY(ensureReady());
  Event* found;
  OR_TRY(findEvent("orEventDestroy", event, &found));
  if (!eventPool.retire(found, event)) {
    return fail(orErrorInvalidResourceHandle,
                "orEventDestroy: event %p was destroyed by another thread",
                static_cast<void*>(event));
  }
  eventPool.release(found);
  return orSuccess;
}

orError_t orEventRecord(orEvent_t event, orStream_t stream) {
  OR_TRY(ensureReady());
  Event* found;
  OR_TRY(findEvent("orEventRecord", event, &found));
  Stream* on;
  OR_TRY(findStream("orEventRecord", stream, &on));
  orError_t captured;
  if (hasFlag(kCapturing) && captureRecord(found, on, &captured)) {
    return captured;
  }
  OR_TRY(on->device->checkSticky());
  Point point{on, on->issued()};
  orError_t error = orSuccess;
  uint64_t record;
  Point replaced;
  {
    std::lock_guard<SpinLock> guard(found->lock);
    record = ++found->records;
  }
  if (found->keeps_time || isTraced(orTraceEventRecord)) {
    eventPool.addReference(found);
    Stamp stamp{found, record};
    Work work;
    work.kind = orTraceEventRecord;
    work.name = "eventRecord";
    work.type = &stampType;
    work.correlation = newCorrelation();
    error = submitTraced(on, work, &stamp, &point.number);
    if (error != orSuccess && !isLaunchError(error)) {
      eventPool.release(found);
      return error;
    }
    // A launch error is of earlier work (OPENREG_LAUNCH_BLOCKING): the event is
    // recorded nevertheless.
  }
  {
    std::lock_guard<SpinLock> guard(found->lock);
    if (found->records != record) {
      return error; // another thread recorded it again meanwhile
    }
    found->capture.store(0, std::memory_order_relaxed);
    replaced = found->point;
    if (replaced.stream != on) {
      streamPool.addReference(on);
    }
    found->point = point;
  }
  if (replaced.stream != on) {
    releasePoint(replaced);
  }
  return error;
}

orError_t orEventQuery(orEvent_t event) {
  OR_TRY(ensureReady());
  Event* found;
  OR_TRY(findEvent("orEventQuery", event, &found));
  OR_TRY(checkEvent("orEventQuery", found));
  Device* device = found->device;
  bool reached;
  {
    std::lock_guard<SpinLock> guard(found->lock);
    reached = isReached(found->point);
    if (found->point.stream) {
      device = found->point.stream->device;
    }
  }
  OR_TRY(device->takeError());
  return reached ? orSuccess : orErrorNotReady;
}

orError_t orEventSynchronize(orEvent_t event) {
  OR_TRY(ensureReady());
  Event* found;
  OR_TRY(findEvent("orEventSynchronize", event, &found));
  OR_TRY(checkEvent("orEventSynchronize", found));
  Point point = pointOf(found);
  Device* device = point.stream ? point.stream->device : found->device;
  SyncTrace trace("eventSynchronize", device->ordinal, point.stream ? point.stream->id : 0);
  if (!isReached(point)) {
    if (Stream::ofThisThread() == point.stream) {
      releasePoint(point);
      return trace.end(fail(orErrorNotSupported,
                            "orEventSynchronize: called by work of the event's own stream, which "
                            "would wait for itself"));
    }
    point.stream->waitFor(point.number);
  }
  releasePoint(point);
  return trace.end(device->takeError());
}

orError_t orEventElapsedTime(float* milliseconds, orEvent_t start, orEvent_t end) {
  OR_TRY(ensureReady());
  if (!milliseconds) {
    return fail(orErrorInvalidValue, "orEventElapsedTime: milliseconds is NULL");
  }
  uint64_t times[2];
  const orEvent_t handles[2] = {start, end};
  bool ready = true;
  for (int i = 0; i < 2; ++i) {
    const char* which = i == 0 ? "start" : "end";
    Event* event;
    OR_TRY(findEvent("orEventElapsedTime", handles[i], &event));
    OR_TRY(checkEvent("orEventElapsedTime", event));
    std::lock_guard<SpinLock> guard(event->lock);
    if (!event->keeps_time || !event->point.stream) {
      return fail(orErrorInvalidResourceHandle, "orEventElapsedTime: the %s event %s", which,
                  event->keeps_time ? "was never recorded" : "keeps no time");
    }
    ready &= isReached(event->point);
    times[i] = event->time;
  }
  if (!ready) {
    return orErrorNotReady;
  }
  *milliseconds =
      static_cast<float>((static_cast<double>(times[1]) - static_cast<double>(times[0])) * 1e-6);
  return orSuccess;
}

orError_t orStreamWaitEvent(orStream_t stream, orEvent_t event, unsigned flags) {
  OR_TRY(ensureReady());
  Stream* on;
  OR_TRY(findStream("orStreamWaitEvent", stream, &on));
  Event* found;
  OR_TRY(findEvent("orStreamWaitEvent", event, &found));
  if (flags != 0) {
    return fail(orErrorInvalidValue, "orStreamWaitEvent: flags must be 0, got %u", flags);
  }
  orError_t captured;
  if (captureWait(found, on, &captured)) {
    return captured;
  }
  OR_TRY(on->device->checkSticky());
  Point point = pointOf(found);
  // A stream is always behind its own earlier work, and what has been reached
  // stays so. Whoever traces sees the wait nevertheless.
  if (point.stream == on || isReached(point)) {
    releasePoint(point);
    point = {};
    if (!isTraced(orTraceEventWait)) {
      return orSuccess;
    }
  }
  orError_t error = submitWait(on, point);
  if (error != orSuccess && !isLaunchError(error)) {
    releasePoint(point);
  }
  return error;
}

#include "Event.h"

#include <mutex>
#include <string>
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
  uint64_t shared_number; // 0: not shared
};

const orClosureType stampType = {sizeof(Stamp),
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
                                 [](void* closure) {
                                   auto* stamp = static_cast<Stamp*>(closure);
                                   if (stamp->shared_number) {
                                     stamp->event->shared->reached(stamp->shared_number);
                                   }
                                   eventPool.release(stamp->event);
                                 },
                                 nullptr};

// Holds a stream up until another has reached a point.
const orClosureType waitType = {sizeof(Point),
                                alignof(Point),
                                nullptr,
                                [](void* closure, const orLaunchContext*) {
                                  auto* point = static_cast<Point*>(closure);
                                  if (point->stream) {
                                    if (hasFlag(kWatched)) {
                                      Stream::ofThisThread()->watch.waitsFor(point->stream);
                                    }
                                    point->stream->waitFor(point->number);
                                  }
                                  return orSuccess;
                                },
                                [](void* closure) { releasePoint(*static_cast<Point*>(closure)); },
                                nullptr};

// A record of another process, or none: the event's last one.
struct Remote {
  Event* event; // a reference
  uint64_t number;
};

// Whether the last record is a remote one, and which.
bool isRemote(Event* event, Remote* remote) {
  if (!event->shared) {
    return false;
  }
  std::lock_guard<SpinLock> guard(event->lock);
  *remote = {event, event->shared->last()};
  return remote->number != event->shared_number;
}

std::string deathOf(uint32_t process) {
  return "process " + std::to_string(process) +
         " recorded the event and died before it was reached";
}

orError_t failRemote(const char* caller, orError_t error, uint32_t process) {
  if (error == orErrorProcessDied) {
    return fail(error, "%s: %s", caller, deathOf(process).c_str());
  }
  if (error == orErrorLaunchTimeout) {
    return fail(error,
                "%s: process %u recorded the event, which is not reached after %.3g s "
                "(OPENREG_LAUNCH_TIMEOUT)",
                caller, process, static_cast<double>(config().launch_timeout) * 1e-9);
  }
  return error;
}

const orClosureType remoteWaitType = {
    sizeof(Remote),
    alignof(Remote),
    nullptr,
    [](void* closure, const orLaunchContext* context) {
      auto* remote = static_cast<Remote*>(closure);
      Stream* stream = Stream::ofThisThread();
      uint32_t process = 0;
      stream->setParked(true);
      orError_t error = remote->event->shared->wait(remote->number, &process);
      stream->setParked(false);
      return error == orSuccess ? error : orKernelFail(context, error, deathOf(process).c_str());
    },
    [](void* closure) { eventPool.release(static_cast<Remote*>(closure)->event); },
    nullptr};

orError_t submitRemoteWait(Stream* on, Remote remote) {
  uint32_t process;
  if (remote.event->shared->query(remote.number, &process) == orSuccess &&
      !isTraced(orTraceEventWait)) {
    return orSuccess;
  }
  eventPool.addReference(remote.event);
  Work work;
  work.kind = orTraceEventWait;
  work.name = "eventWait";
  work.type = &remoteWaitType;
  work.correlation = newCorrelation();
  orError_t error = submitTraced(on, work, &remote);
  if (error != orSuccess && !isLaunchError(error)) {
    eventPool.release(remote.event);
  }
  return error;
}

orError_t
newEvent(const char* caller, Device* device, std::unique_ptr<SharedEvent> shared, Event** created) {
  *created = eventPool.create();
  if (!*created) {
    return fail(orErrorNotSupported, "%s: too many events exist", caller);
  }
  (*created)->device = device;
  (*created)->records = 0;
  (*created)->capture.store(0, std::memory_order_relaxed);
  (*created)->time = 0;
  (*created)->shared_number = 0;
  (*created)->shared = std::move(shared);
  return orSuccess;
}

orEvent_t publishEvent(Event* event) {
  auto handle = reinterpret_cast<orEvent_t>(eventPool.handleFor(event));
  eventPool.publish(event);
  return handle;
}

} // namespace

bool isRecorded(Event* event) {
  std::lock_guard<SpinLock> guard(event->lock);
  return event->point.stream || (event->shared && event->shared->last());
}

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
  shared.reset();
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
  const unsigned known = unsigned(orEventDisableTiming) | orEventInterprocess;
  if ((flags & ~known) || flags == orEventInterprocess) {
    return fail(orErrorInvalidValue,
                "orEventCreate: flags must be orEventDefault or orEventDisableTiming, the latter "
                "possibly with orEventInterprocess (such events keep no time), got %u",
                flags);
  }
  std::unique_ptr<SharedEvent> shared;
  if (flags & orEventInterprocess) {
    orError_t error;
    shared = SharedEvent::create(&error);
    OR_TRY(error);
  }
  Event* created;
  OR_TRY(newEvent("orEventCreate", device, std::move(shared), &created));
  created->keeps_time = !(flags & orEventDisableTiming);
  *event = publishEvent(created);
  return orSuccess;
}

orError_t orIpcGetEventHandle(orIpcEventHandle* handle, orEvent_t event) {
  OR_TRY(ensureReady());
  Event* found;
  OR_TRY(findEvent("orIpcGetEventHandle", event, &found));
  if (!handle) {
    return fail(orErrorInvalidValue, "orIpcGetEventHandle: handle is NULL");
  }
  if (!found->shared) {
    return fail(orErrorInvalidResourceHandle,
                "orIpcGetEventHandle: the event was created without orEventInterprocess");
  }
  found->shared->writeHandle(handle);
  return orSuccess;
}

orError_t orIpcOpenEventHandle(orEvent_t* event, const orIpcEventHandle* handle) {
  OR_TRY(ensureReady());
  Device* device;
  OR_TRY(currentDevice(&device));
  if (!event || !handle) {
    return fail(orErrorInvalidValue, "orIpcOpenEventHandle: %s is NULL",
                event ? "handle" : "event");
  }
  orError_t error;
  std::unique_ptr<SharedEvent> shared = SharedEvent::open(*handle, &error);
  OR_TRY(error);
  Event* created;
  OR_TRY(newEvent("orIpcOpenEventHandle", device, std::move(shared), &created));
  created->keeps_time = false;
  *event = publishEvent(created);
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
  uint64_t shared_number = 0;
  if (found->shared) {
    OR_TRY(found->shared->record(&shared_number));
  }
  if (found->keeps_time || found->shared || isTraced(orTraceEventRecord)) {
    eventPool.addReference(found);
    Stamp stamp{found, record, shared_number};
    Work work;
    work.kind = orTraceEventRecord;
    work.name = "eventRecord";
    work.type = &stampType;
    work.correlation = newCorrelation();
    error = submitTraced(on, work, &stamp, &point.number);
    if (error != orSuccess && !isLaunchError(error)) {
      stampType.destroy(&stamp);
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
    found->shared_number = shared_number;
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
  Remote remote;
  if (isRemote(found, &remote)) {
    OR_TRY(device->takeError());
    uint32_t process = 0;
    orError_t error = found->shared->query(remote.number, &process);
    return failRemote("orEventQuery", error, process);
  }
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
  Remote remote;
  if (isRemote(found, &remote)) {
    SyncTrace trace("eventSynchronize", found->device->ordinal, 0);
    eventPool.addReference(found);
    uint32_t process = 0;
    orError_t error = found->shared->wait(remote.number, &process);
    Device* device = found->device;
    eventPool.release(found);
    OR_TRY(trace.end(failRemote("orEventSynchronize", error, process)));
    return trace.end(device->takeError());
  }
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
    orError_t error = point.stream->waitFor(point.number);
    if (error != orSuccess) {
      releasePoint(point);
      return trace.end(error);
    }
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
  Remote remote;
  if (isRemote(found, &remote)) {
    return submitRemoteWait(on, remote);
  }
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

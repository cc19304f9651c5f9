#include <string>
#include <unordered_set>
#include <vector>

#include "Memory.h"
#include "Stream.h"
#include "Trace.h"

namespace openreg {
namespace {

orError_t checkClosure(const char* name, const orClosureType* type, const void* closure) {
  if (!name || !type || !closure || !type->invoke) {
    return fail(orErrorInvalidValue, "orLaunch: %s is NULL",
                !name      ? "name"
                : !type    ? "type"
                : !closure ? "closure"
                           : "type->invoke");
  }
  if (type->alignment > 64 || (type->alignment & (type->alignment - 1))) {
    return fail(orErrorInvalidValue,
                "orLaunch(%s): the closure's alignment must be a power of two up to 64, "
                "got %zu",
                name, type->alignment);
  }
  return orSuccess;
}

// OPENREG_MEMORY_CHECK: what a kernel says that it reads and writes must be
// allocated, on its own device or on one that its device may access.
orError_t checkRanges(const char* name, Device* device, const std::vector<orMemoryRange>& ranges) {
  for (const orMemoryRange& range : ranges) {
    int owner = deviceOfAddress(range.base);
    if (owner < 0 || range.size == 0) {
      continue; // host memory is not ours to judge
    }
    auto address = reinterpret_cast<uintptr_t>(range.base);
    Block block;
    if (!deviceAt(owner).heap.find(address, &block) || block.free_pending ||
        range.size > block.begin + block.size - address) {
      return fail(orErrorInvalidDevicePointer,
                  "%s: %s %zu bytes at %p, which are not in one allocation of device %d", name,
                  range.is_write ? "writes" : "reads", range.size, range.base, owner);
    }
    if (owner != device->ordinal && !(device->peers.load() >> owner & 1)) {
      return fail(orErrorPeerAccessNotEnabled,
                  "%s: runs on device %d and %s memory of device %d without peer access", name,
                  device->ordinal, range.is_write ? "writes" : "reads", owner);
    }
  }
  return orSuccess;
}

orError_t launchWatched(Stream* stream, Work* work, const orClosureType* type, void* closure) {
  std::vector<orMemoryRange> ranges;
  if (type->ranges) {
    ranges.resize(16);
    size_t count = type->ranges(closure, ranges.data(), ranges.size());
    if (count > ranges.size()) {
      ranges.resize(count);
      count = type->ranges(closure, ranges.data(), ranges.size());
    }
    ranges.resize(count);
    work->ranges = ranges.data();
    work->range_count = count;
    if (hasFlag(kMemoryCheck)) {
      OR_TRY(checkRanges(work->name, stream->device, ranges));
    }
  }
  return submitTraced(stream, *work, closure);
}

struct HostFunction {
  void (*function)(void*);
  void* user;
};

const orClosureType hostFunctionType = {sizeof(HostFunction),
                                        alignof(HostFunction),
                                        nullptr,
                                        [](void* closure, const orLaunchContext*) {
                                          auto* call = static_cast<HostFunction*>(closure);
                                          call->function(call->user);
                                          return orSuccess;
                                        },
                                        nullptr,
                                        nullptr};

} // namespace
} // namespace openreg

using namespace openreg;

orError_t orLaunch(orStream_t stream, const char* name, const orClosureType* type, void* closure) {
  OR_TRY(ensureReady());
  Stream* on;
  OR_TRY(findStream("orLaunch", stream, &on));
  if (OR_UNLIKELY(!name || !type || !closure || !type->invoke || type->alignment > 64 ||
                  (type->alignment & (type->alignment - 1)))) {
    return checkClosure(name, type, closure);
  }
  Work work;
  work.kind = orTraceKernel;
  work.name = name;
  work.type = type;
  work.correlation = newCorrelation();
  if (hasFlag(static_cast<unsigned>(orTraceKernel) | kMemoryCheck)) {
    return launchWatched(on, &work, type, closure);
  }
  return submitTraced(on, work, closure);
}

orError_t orKernelFail(const orLaunchContext* context, orError_t code, const char* message) {
  code = isLaunchError(code) ? code : orErrorLaunchFailure;
  // By the stream and not by the address: who replays a closure may have made a
  // context of its own.
  Stream* stream = context ? streamPool.findEvenDestroyed(context->stream) : nullptr;
  if (stream) {
    RunningLaunch* running = stream->running();
    std::lock_guard<std::mutex> guard(running->mutex);
    if (running->error == orSuccess) {
      running->error = code;
      running->message = message ? message : orGetErrorString(code);
    }
  }
  return code;
}

const char* orInternName(const char* name) {
  if (!name) {
    return "";
  }
  static std::mutex mutex;
  static auto* names = new std::unordered_set<std::string>();
  std::lock_guard<std::mutex> guard(mutex);
  return names->insert(name).first->c_str();
}

orError_t orLaunchHostFunc(orStream_t stream, void (*function)(void* user), void* user) {
  OR_TRY(ensureReady());
  Stream* on;
  OR_TRY(findStream("orLaunchHostFunc", stream, &on));
  if (!function) {
    return fail(orErrorInvalidValue, "orLaunchHostFunc: function is NULL");
  }
  HostFunction call{function, user};
  Work work;
  work.kind = orTraceHostFunc;
  work.name = "hostFunc";
  work.type = &hostFunctionType;
  work.correlation = newCorrelation();
  return submitTraced(on, work, &call);
}

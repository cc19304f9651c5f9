#include <cstring>
#include <memory>

#include "Capture.h"
#include "Memory.h"
#include "PinnedMemory.h"
#include "Stream.h"
#include "Trace.h"

namespace openreg {
namespace {

// Larger copies from pageable memory are not staged but waited for.
constexpr size_t kMaxStaged = size_t(64) << 10;

// One side of a copy.
struct Side {
  const char* argument; // "dst" or "src"
  char* pointer;        // what the caller gave
  size_t extent;        // bytes from the first to behind the last
  int device = -1;      // -1: host
  bool pinned = false;
  char* bytes = nullptr; // where the host finds them
};

// Rows of `width` bytes; plain copies have one row.
struct Transfer {
  char* dst;
  const char* src;
  size_t dst_pitch;
  size_t src_pitch;
  size_t width;
  size_t height;

  void run(const char* from) const {
    if (height == 1 || (dst_pitch == width && src_pitch == width)) {
      memcpy(dst, from, width * height);
      return;
    }
    for (size_t row = 0; row < height; ++row) {
      memcpy(dst + row * dst_pitch, from + row * src_pitch, width);
    }
  }
};

struct Request {
  const char* caller;
  void* dst;
  const void* src;
  size_t dst_pitch;
  size_t src_pitch;
  size_t width;
  size_t height;
  orMemcpyKind kind;
};

orError_t checkExtent(
    const char* caller, const Side& side, uintptr_t begin, size_t size, const char* memory) {
  size_t offset = reinterpret_cast<uintptr_t>(side.pointer) - begin;
  if (side.extent > size - offset) {
    return fail(orErrorInvalidValue,
                "%s: %s: %zu bytes at %p run over the end of a %s allocation of %zu "
                "bytes, which has %zu left from there",
                caller, side.argument, side.extent, static_cast<void*>(side.pointer), memory, size,
                size - offset);
  }
  return orSuccess;
}

orError_t resolve(const char* caller, Side* side) {
  if (!side->pointer) {
    return fail(orErrorInvalidValue, "%s: %s is NULL", caller, side->argument);
  }
  side->device = deviceOfAddress(side->pointer);
  if (side->device >= 0) {
    Block block;
    if (!deviceAt(side->device).heap.find(reinterpret_cast<uintptr_t>(side->pointer), &block) ||
        block.free_pending) {
      return fail(orErrorInvalidDevicePointer,
                  "%s: %s: %p is an address of device %d that is not allocated%s", caller,
                  side->argument, static_cast<void*>(side->pointer), side->device,
                  block.free_pending ? " any more" : "");
    }
    OR_TRY(checkExtent(caller, *side, block.begin, block.size, "device"));
    side->bytes = static_cast<char*>(orBacking(side->pointer));
    return orSuccess;
  }
  PinnedBlock block;
  side->bytes = side->pointer;
  side->pinned = findPinned(side->pointer, &block);
  return side->pinned ? checkExtent(caller, *side, block.begin, block.size, "pinned") : orSuccess;
}

orError_t checkKind(const char* caller, orMemcpyKind kind, const Side& dst, const Side& src) {
  static const char* const kNames[] = {"orMemcpyHostToHost", "orMemcpyHostToDevice",
                                       "orMemcpyDeviceToHost", "orMemcpyDeviceToDevice"};
  if (kind == orMemcpyDefault) {
    return orSuccess;
  }
  if (kind < orMemcpyHostToHost || kind > orMemcpyDefault) {
    return fail(orErrorInvalidCopyDirection, "%s: kind must be an orMemcpyKind, got %d", caller,
                static_cast<int>(kind));
  }
  bool to_device = kind == orMemcpyHostToDevice || kind == orMemcpyDeviceToDevice;
  bool from_device = kind == orMemcpyDeviceToHost || kind == orMemcpyDeviceToDevice;
  const Side* wrong = to_device != (dst.device >= 0)     ? &dst
                      : from_device != (src.device >= 0) ? &src
                                                         : nullptr;
  if (!wrong) {
    return orSuccess;
  }
  return fail(orErrorInvalidCopyDirection, "%s: kind is %s, but %s (%p) is %s memory", caller,
              kNames[kind], wrong->argument, static_cast<void*>(wrong->pointer),
              wrong->device >= 0 ? "device" : "host");
}

const char* traceName(const Side& dst, const Side& src) {
  if (dst.device < 0) {
    return src.device < 0 ? "memcpyHtoH" : "memcpyDtoH";
  }
  if (src.device < 0) {
    return "memcpyHtoD";
  }
  return src.device == dst.device ? "memcpyDtoD" : "memcpyPtoP";
}

const orClosureType transferType = {sizeof(Transfer),
                                    alignof(Transfer),
                                    nullptr,
                                    [](void* closure, const orLaunchContext*) {
                                      auto* transfer = static_cast<Transfer*>(closure);
                                      transfer->run(transfer->src);
                                      return orSuccess;
                                    },
                                    nullptr,
                                    nullptr};

// The source's bytes lie behind the closure.
const orClosureType inlineStagedType = {sizeof(Transfer),
                                        alignof(Transfer),
                                        nullptr,
                                        [](void* closure, const orLaunchContext*) {
                                          auto* transfer = static_cast<Transfer*>(closure);
                                          transfer->run(
                                              reinterpret_cast<const char*>(transfer + 1));
                                          return orSuccess;
                                        },
                                        nullptr,
                                        nullptr};

// The source is a copy on the heap.
const orClosureType heapStagedType = {
    sizeof(Transfer),
    alignof(Transfer),
    nullptr,
    transferType.invoke,
    [](void* closure) { delete[] static_cast<Transfer*>(closure)->src; },
    nullptr};

struct Fill {
  char* bytes;
  int value;
  size_t size;
};

const orClosureType fillType = {sizeof(Fill),
                                alignof(Fill),
                                nullptr,
                                [](void* closure, const orLaunchContext*) {
                                  auto* fill = static_cast<Fill*>(closure);
                                  memset(fill->bytes, fill->value, fill->size);
                                  return orSuccess;
                                },
                                nullptr,
                                nullptr};

// Runs work on the calling thread, in order with the stream: once what is
// queued there is done.
template <typename Function>
orError_t runInOrder(const char* caller, Stream* stream, const Work& work, Function function) {
  OR_TRY(checkWait(caller, stream));
  OR_TRY(stream->device->checkSticky());
  orTraceRecord record{};
  auto emit = [&](orTracePhase phase) {
    record.phase = phase;
    record.time = nowNanoseconds();
    trace(record);
  };
  const bool traced = hasFlag(work.kind);
  if (traced) {
    record.kind = static_cast<orTraceKind>(work.kind);
    record.name = work.name;
    record.device = stream->device->ordinal;
    record.stream = stream->id;
    record.correlation = work.correlation;
    record.pointer = work.pointer;
    record.source = work.source;
    record.size = work.size;
    emit(orTraceEnqueue);
  }
  OR_TRY(stream->synchronize(caller));
  if (traced) {
    emit(orTraceBegin);
  }
  {
    const ThrottledRun throttle(stream->device->ordinal, work);
    function();
  }
  if (traced) {
    emit(orTraceEnd);
  }
  return stream->device->takeError();
}

orError_t submitStaged(Stream* stream, Work* work, Transfer transfer, size_t extent) {
  if (sizeof(Transfer) + extent <= OR_INLINE_CLOSURE_SIZE) {
    work->type = &inlineStagedType;
    work->attachment = transfer.src;
    work->attachment_size = extent;
    return submitTraced(stream, *work, &transfer);
  }
  std::unique_ptr<char[]> copy(new char[extent]);
  memcpy(copy.get(), transfer.src, extent);
  transfer.src = copy.get();
  work->type = &heapStagedType;
  orError_t error = submitTraced(stream, *work, &transfer);
  if (error == orSuccess || isLaunchError(error)) {
    copy.release();
  }
  return error;
}

// `peers`: the devices that dst and src must be on, for the Peer forms.
orError_t
copy(const Request& request, Stream* stream, bool asynchronous, const int* peers = nullptr) {
  const char* caller = request.caller;
  if (request.width == 0 || request.height == 0) {
    return orSuccess;
  }
  size_t extents[2];
  const size_t pitches[2] = {request.dst_pitch, request.src_pitch};
  for (int i = 0; i < 2; ++i) {
    if (request.height > 1 && pitches[i] < request.width) {
      return fail(orErrorInvalidValue, "%s: %s_pitch must be at least width, %zu, got %zu", caller,
                  i == 0 ? "dst" : "src", request.width, pitches[i]);
    }
    size_t before_last;
    if (__builtin_mul_overflow(pitches[i], request.height - 1, &before_last) ||
        __builtin_add_overflow(before_last, request.width, &extents[i])) {
      return fail(orErrorInvalidValue, "%s: width, height and pitch overflow", caller);
    }
  }
  Side dst{"dst", static_cast<char*>(request.dst), extents[0]};
  Side src{"src", const_cast<char*>(static_cast<const char*>(request.src)), extents[1]};
  OR_TRY(resolve(caller, &dst));
  OR_TRY(resolve(caller, &src));
  OR_TRY(checkKind(caller, request.kind, dst, src));
  for (int i = 0; peers && i < 2; ++i) {
    const Side& side = i == 0 ? dst : src;
    if (side.device != peers[i]) {
      return fail(
          orErrorInvalidDevicePointer, "%s: %s (%p) must be memory of device %d, but is of %s %d",
          caller, side.argument, static_cast<void*>(side.pointer), peers[i],
          side.device < 0 ? "the host, not" : "device", side.device < 0 ? peers[i] : side.device);
    }
  }
  // Rows may interleave; only plain copies are known to collide.
  if (request.height == 1 && dst.pointer < src.pointer + src.extent &&
      src.pointer < dst.pointer + dst.extent) {
    return fail(orErrorInvalidValue, "%s: dst (%p) and src (%p) overlap in a copy of %zu bytes",
                caller, static_cast<void*>(dst.pointer), static_cast<void*>(src.pointer),
                request.width);
  }

  Transfer transfer{dst.bytes,         src.bytes,     request.dst_pitch,
                    request.src_pitch, request.width, request.height};
  Work work;
  work.kind = orTraceMemcpy;
  work.name = traceName(dst, src);
  work.type = &transferType;
  work.pointer = dst.pointer;
  work.source = src.pointer;
  work.size = request.width * request.height;
  work.correlation = newCorrelation();
  bool dst_ready = dst.device >= 0 || dst.pinned;
  bool src_ready = src.device >= 0 || src.pinned;
  if (asynchronous && dst_ready && src_ready) {
    return submitTraced(stream, work, &transfer);
  }
  if (asynchronous && dst_ready && src.extent <= kMaxStaged) {
    OR_TRY(checkCaptureOf(caller, stream));
    return submitStaged(stream, &work, transfer, src.extent);
  }
  return runInOrder(caller, stream, work, [&] { transfer.run(transfer.src); });
}

orError_t copyOn(const Request& request, orStream_t handle, bool asynchronous) {
  OR_TRY(ensureReady());
  Stream* stream;
  OR_TRY(findStream(request.caller, handle, &stream));
  return copy(request, stream, asynchronous);
}

orError_t copyPeer(
    const Request& request, int dst_device, int src_device, orStream_t handle, bool asynchronous) {
  OR_TRY(ensureReady());
  Device* unused;
  OR_TRY(deviceByOrdinal(request.caller, "dst_device", dst_device, &unused));
  OR_TRY(deviceByOrdinal(request.caller, "src_device", src_device, &unused));
  Stream* stream;
  OR_TRY(findStream(request.caller, handle, &stream));
  const int peers[2] = {dst_device, src_device};
  return copy(request, stream, asynchronous, peers);
}

orError_t fill(const char* caller,
               void* pointer,
               int value,
               size_t size,
               orStream_t handle,
               bool asynchronous) {
  OR_TRY(ensureReady());
  Stream* stream;
  OR_TRY(findStream(caller, handle, &stream));
  if (size == 0) {
    return orSuccess;
  }
  Side side{"pointer", static_cast<char*>(pointer), size};
  OR_TRY(resolve(caller, &side));
  if (side.device < 0) {
    return fail(orErrorInvalidDevicePointer,
                "%s: pointer must be device memory, got host memory at %p", caller, pointer);
  }
  Fill fill{side.bytes, value, size};
  Work work;
  work.kind = orTraceMemset;
  work.name = "memset";
  work.type = &fillType;
  work.pointer = pointer;
  work.size = size;
  work.correlation = newCorrelation();
  if (asynchronous) {
    return submitTraced(stream, work, &fill);
  }
  return runInOrder(caller, stream, work, [&] { memset(fill.bytes, value, size); });
}

} // namespace
} // namespace openreg

using namespace openreg;

orError_t orMemcpy(void* dst, const void* src, size_t size, orMemcpyKind kind) {
  return copyOn({"orMemcpy", dst, src, size, size, size, 1, kind}, nullptr, false);
}

orError_t
orMemcpyAsync(void* dst, const void* src, size_t size, orMemcpyKind kind, orStream_t stream) {
  return copyOn({"orMemcpyAsync", dst, src, size, size, size, 1, kind}, stream, true);
}

orError_t orMemcpy2D(void* dst,
                     size_t dst_pitch,
                     const void* src,
                     size_t src_pitch,
                     size_t width,
                     size_t height,
                     orMemcpyKind kind) {
  return copyOn({"orMemcpy2D", dst, src, dst_pitch, src_pitch, width, height, kind}, nullptr,
                false);
}

orError_t orMemcpy2DAsync(void* dst,
                          size_t dst_pitch,
                          const void* src,
                          size_t src_pitch,
                          size_t width,
                          size_t height,
                          orMemcpyKind kind,
                          orStream_t stream) {
  return copyOn({"orMemcpy2DAsync", dst, src, dst_pitch, src_pitch, width, height, kind}, stream,
                true);
}

orError_t orMemcpyPeer(void* dst, int dst_device, const void* src, int src_device, size_t size) {
  return copyPeer({"orMemcpyPeer", dst, src, size, size, size, 1, orMemcpyDeviceToDevice},
                  dst_device, src_device, nullptr, false);
}

orError_t orMemcpyPeerAsync(
    void* dst, int dst_device, const void* src, int src_device, size_t size, orStream_t stream) {
  return copyPeer({"orMemcpyPeerAsync", dst, src, size, size, size, 1, orMemcpyDeviceToDevice},
                  dst_device, src_device, stream, true);
}

orError_t orMemset(void* pointer, int value, size_t size) {
  return fill("orMemset", pointer, value, size, nullptr, false);
}

orError_t orMemsetAsync(void* pointer, int value, size_t size, orStream_t stream) {
  return fill("orMemsetAsync", pointer, value, size, stream, true);
}

#include "Capture.h"

#include <pthread.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "Device.h"
#include "Event.h"
#include "Graph.h"
#include "Stream.h"

namespace openreg {

// A capture under way. All access is with the captures' lock.
class Capture {
 public:
  uint64_t id;
  orStreamCaptureMode mode;
  pthread_t thread;
  Stream* origin;
  Graph* graph;
  // The streams that take part, a reference each, and the nodes that their next
  // one comes after.
  std::unordered_map<Stream*, std::vector<size_t>> tails;
  bool invalidated = false;
  std::string reason; // for which it was

  // Makes it invalid and returns the error of the call that did.
  orError_t invalidate(orError_t error, const char* caller) {
    if (!invalidated) {
      invalidated = true;
      reason = std::string(caller) + ": " + orGetErrorString(error);
    }
    return fail(error, "%s: %s", caller, orGetErrorString(error));
  }

  void join(Stream* stream, const std::vector<size_t>& behind) {
    auto [tail, is_new] = tails.try_emplace(stream);
    if (is_new) {
      streamPool.addReference(stream);
      stream->capture.store(this, std::memory_order_release);
    }
    for (size_t node : behind) {
      if (std::find(tail->second.begin(), tail->second.end(), node) == tail->second.end()) {
        tail->second.push_back(node);
      }
    }
  }

  // Whether the origin is behind all that the other streams have captured.
  bool isJoined() const {
    std::vector<bool> reached(graph->nodes.size());
    std::vector<size_t> open = tails.at(origin);
    while (!open.empty()) {
      size_t node = open.back();
      open.pop_back();
      if (!reached[node]) {
        reached[node] = true;
        const std::vector<size_t>& depends = graph->nodes[node].depends;
        open.insert(open.end(), depends.begin(), depends.end());
      }
    }
    for (const auto& [stream, nodes] : tails) {
      for (size_t node : nodes) {
        if (!reached[node]) {
          return false;
        }
      }
    }
    return true;
  }
};

namespace {

struct Captures {
  std::mutex mutex;
  std::vector<std::unique_ptr<Capture>> list;
  uint64_t last_id = 0;

  Capture* find(uint64_t id) {
    for (auto& capture : list) {
      if (capture->id == id) {
        return capture.get();
      }
    }
    return nullptr;
  }
};

Captures& captures() {
  static auto* instance = new Captures();
  return *instance;
}

thread_local orStreamCaptureMode threadMode = orStreamCaptureModeGlobal;

// With the lock.
orError_t judgeDangerous(const char* caller) {
  // Kernels that allocate are not the host's calls.
  if (threadMode == orStreamCaptureModeRelaxed || Stream::ofThisThread()) {
    return orSuccess;
  }
  orError_t error = orSuccess;
  for (auto& capture : captures().list) {
    bool own = pthread_equal(capture->thread, pthread_self());
    bool forbidden =
        own ? capture->mode != orStreamCaptureModeRelaxed
            : capture->mode == orStreamCaptureModeGlobal && threadMode == orStreamCaptureModeGlobal;
    if (forbidden) {
      error = capture->invalidate(orErrorStreamCaptureUnsupported, caller);
    }
  }
  return error;
}

// A default stream waits implicitly for the blocking streams of its device.
orError_t judgeImplicit(const char* caller, Stream* stream) {
  if (stream != stream->device->default_stream) {
    return orSuccess;
  }
  for (auto& capture : captures().list) {
    for (auto& [captured, nodes] : capture->tails) {
      if (captured->blocking && captured->device == stream->device) {
        return capture->invalidate(orErrorStreamCaptureImplicit, caller);
      }
    }
  }
  return orSuccess;
}

orError_t failInvalidated(const char* caller, const Capture& capture) {
  return fail(orErrorStreamCaptureInvalidated, "%s: %s (%s)", caller,
              orGetErrorString(orErrorStreamCaptureInvalidated), capture.reason.c_str());
}

// The end of a capture, with the lock. The graph is the caller's.
Graph* close(Capture* capture) {
  Graph* graph = capture->graph;
  for (auto& [stream, nodes] : capture->tails) {
    stream->capture.store(nullptr, std::memory_order_release);
    streamPool.release(stream);
  }
  auto& list = captures().list;
  list.erase(std::find_if(list.begin(), list.end(),
                          [capture](const auto& other) { return other.get() == capture; }));
  if (list.empty()) {
    runtimeFlags.fetch_and(~uint32_t(kCapturing));
  }
  return graph;
}

} // namespace

bool captureWork(Stream* stream, const Work& work, void* closure, orError_t* error) {
  std::lock_guard<std::mutex> guard(captures().mutex);
  Capture* capture = stream->capture.load(std::memory_order_relaxed);
  if (!capture) {
    *error = judgeImplicit(work.name, stream);
    return *error != orSuccess;
  }
  if (capture->invalidated) {
    *error = failInvalidated(work.name, *capture);
    return true;
  }
  std::vector<size_t>& tail = capture->tails.at(stream);
  if (!capture->graph->append(work, closure, stream->id, tail)) {
    *error = capture->invalidate(orErrorHostMemoryAllocation, work.name);
    return true;
  }
  tail.assign(1, capture->graph->nodes.size() - 1);
  *error = orSuccess;
  return true;
}

bool captureRecord(Event* event, Stream* stream, orError_t* error) {
  std::lock_guard<std::mutex> guard(captures().mutex);
  Capture* capture = stream->capture.load(std::memory_order_relaxed);
  if (!capture) {
    *error = judgeImplicit("orEventRecord", stream);
    return *error != orSuccess;
  }
  if (capture->invalidated) {
    *error = failInvalidated("orEventRecord", *capture);
    return true;
  }
  event->nodes = capture->tails.at(stream);
  event->capture.store(capture->id, std::memory_order_relaxed);
  *error = orSuccess;
  return true;
}

bool captureWait(Event* event, Stream* stream, orError_t* error) {
  const uint64_t id = event->capture.load(std::memory_order_relaxed);
  if (id == 0 && !hasFlag(kCapturing)) {
    return false;
  }
  static const char kCaller[] = "orStreamWaitEvent";
  std::lock_guard<std::mutex> guard(captures().mutex);
  Capture* own = stream->capture.load(std::memory_order_relaxed);
  Capture* other = id ? captures().find(id) : nullptr;
  if (id == 0) {
    if (!own) {
      *error = judgeImplicit(kCaller, stream);
      return *error != orSuccess;
    }
    *error = own->invalidated    ? failInvalidated(kCaller, *own)
             : isRecorded(event) ? own->invalidate(orErrorStreamCaptureIsolation, kCaller)
                                 : orSuccess;
  } else if (!other) {
    if (own) {
      own->invalidate(orErrorCapturedEvent, kCaller);
    }
    *error = fail(orErrorCapturedEvent,
                  "%s: the event was last recorded in a capture that has ended", kCaller);
  } else if (own && own != other) {
    own->invalidate(orErrorStreamCaptureMerge, kCaller);
    *error = other->invalidate(orErrorStreamCaptureMerge, kCaller);
  } else if (other->invalidated) {
    *error = failInvalidated(kCaller, *other);
  } else if (stream == stream->device->default_stream) {
    *error = other->invalidate(orErrorStreamCaptureImplicit, kCaller);
  } else if (stream->device != other->graph->device) {
    other->invalidate(orErrorNotSupported, kCaller);
    *error = fail(orErrorNotSupported,
                  "%s: a stream of device %d cannot join a capture of device %d: a graph spans one "
                  "device",
                  kCaller, stream->device->ordinal, other->graph->device->ordinal);
  } else {
    other->join(stream, event->nodes);
    *error = orSuccess;
  }
  return true;
}

orError_t checkCaptureOfSlow(const char* caller, Stream* stream) {
  std::lock_guard<std::mutex> guard(captures().mutex);
  Capture* capture = stream->capture.load(std::memory_order_relaxed);
  return capture ? capture->invalidate(orErrorStreamCaptureUnsupported, caller)
                 : judgeImplicit(caller, stream);
}

orError_t checkDangerousSlow(const char* caller) {
  std::lock_guard<std::mutex> guard(captures().mutex);
  return judgeDangerous(caller);
}

orError_t checkWaitSlow(const char* caller, Device* device) {
  std::lock_guard<std::mutex> guard(captures().mutex);
  orError_t error = judgeDangerous(caller);
  for (auto& capture : captures().list) {
    if (capture->graph->device == device) {
      error = capture->invalidate(orErrorStreamCaptureUnsupported, caller);
    }
  }
  return error;
}

orError_t checkEvent(const char* caller, Event* event) {
  const uint64_t id = event->capture.load(std::memory_order_relaxed);
  if (id == 0) {
    return checkDangerous(caller);
  }
  std::lock_guard<std::mutex> guard(captures().mutex);
  Capture* capture = captures().find(id);
  return capture
             ? capture->invalidate(orErrorCapturedEvent, caller)
             : fail(orErrorCapturedEvent, "%s: %s", caller, orGetErrorString(orErrorCapturedEvent));
}

} // namespace openreg

using namespace openreg;

orError_t orStreamBeginCapture(orStream_t stream, orStreamCaptureMode mode) {
  OR_TRY(ensureReady());
  Stream* found;
  OR_TRY(findStream("orStreamBeginCapture", stream, &found));
  if (mode < orStreamCaptureModeGlobal || mode > orStreamCaptureModeRelaxed) {
    return fail(orErrorInvalidValue,
                "orStreamBeginCapture: mode must be an orStreamCaptureMode, got %d",
                static_cast<int>(mode));
  }
  if (found == found->device->default_stream) {
    return fail(orErrorStreamCaptureUnsupported,
                "orStreamBeginCapture: a default stream cannot be captured");
  }
  Captures& all = captures();
  std::lock_guard<std::mutex> guard(all.mutex);
  if (found->capture.load(std::memory_order_relaxed)) {
    return fail(orErrorStreamCaptureUnsupported,
                "orStreamBeginCapture: the stream is capturing already");
  }
  Graph* graph = graphPool.create();
  if (!graph) {
    return fail(orErrorNotSupported, "orStreamBeginCapture: too many graphs exist");
  }
  graph->device = found->device;
  auto capture = std::make_unique<Capture>();
  capture->id = ++all.last_id;
  capture->mode = mode;
  capture->thread = pthread_self();
  capture->origin = found;
  capture->graph = graph;
  capture->join(found, {});
  all.list.push_back(std::move(capture));
  runtimeFlags.fetch_or(kCapturing);
  return orSuccess;
}

orError_t orStreamEndCapture(orStream_t stream, orGraph_t* graph) {
  OR_TRY(ensureReady());
  Stream* found;
  OR_TRY(findStream("orStreamEndCapture", stream, &found));
  if (!graph) {
    return fail(orErrorInvalidValue, "orStreamEndCapture: graph is NULL");
  }
  static const char kCaller[] = "orStreamEndCapture";
  Graph* captured;
  orError_t error = orSuccess;
  {
    std::lock_guard<std::mutex> guard(captures().mutex);
    Capture* capture = found->capture.load(std::memory_order_relaxed);
    if (!capture) {
      return fail(orErrorStreamCaptureUnmatched, "%s: the stream is not capturing", kCaller);
    }
    if (capture->origin != found) {
      return capture->invalidate(orErrorStreamCaptureUnmatched, kCaller);
    }
    if (capture->mode != orStreamCaptureModeRelaxed &&
        !pthread_equal(capture->thread, pthread_self())) {
      return capture->invalidate(orErrorStreamCaptureWrongThread, kCaller);
    }
    if (capture->invalidated) {
      error = failInvalidated(kCaller, *capture);
    } else if (!capture->isJoined()) {
      error = fail(orErrorStreamCaptureUnjoined, "%s: %s", kCaller,
                   orGetErrorString(orErrorStreamCaptureUnjoined));
    }
    captured = close(capture);
  }
  if (error != orSuccess) {
    *graph = nullptr;
    graphPool.release(captured); // ends the closures; without the lock
    return error;
  }
  *graph = reinterpret_cast<orGraph_t>(graphPool.handleFor(captured));
  graphPool.publish(captured);
  return orSuccess;
}

orError_t orStreamIsCapturing(orStream_t stream, orStreamCaptureStatus* status) {
  return orStreamGetCaptureInfo(stream, status, nullptr);
}

orError_t orStreamGetCaptureInfo(orStream_t stream, orStreamCaptureStatus* status, uint64_t* id) {
  OR_TRY(ensureReady());
  Stream* found;
  OR_TRY(findStream("orStreamGetCaptureInfo", stream, &found));
  if (!status) {
    return fail(orErrorInvalidValue, "orStreamGetCaptureInfo: status is NULL");
  }
  orStreamCaptureStatus current = orStreamCaptureStatusNone;
  uint64_t current_id = 0;
  if (hasFlag(kCapturing)) {
    std::lock_guard<std::mutex> guard(captures().mutex);
    if (const Capture* capture = found->capture.load(std::memory_order_relaxed)) {
      current =
          capture->invalidated ? orStreamCaptureStatusInvalidated : orStreamCaptureStatusActive;
      current_id = capture->id;
    }
  }
  *status = current;
  if (id) {
    *id = current_id;
  }
  return orSuccess;
}

orError_t orThreadExchangeStreamCaptureMode(orStreamCaptureMode* mode) {
  if (!mode || *mode < orStreamCaptureModeGlobal || *mode > orStreamCaptureModeRelaxed) {
    return fail(orErrorInvalidValue,
                "orThreadExchangeStreamCaptureMode: mode must point to an orStreamCaptureMode");
  }
  std::swap(*mode, threadMode);
  return orSuccess;
}

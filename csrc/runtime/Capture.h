#pragma once

// Whether a stream's work is being captured into a graph, and how the
// integration's own calls stay out of a capture's way.

#include <c10/util/Exception.h>

#include <string>

#include "runtime/Exception.h"

namespace c10::openreg {

// The id of the capture that the stream takes part in; 0 if there is none.
inline uint64_t capture_of(orStream_t stream) {
  orStreamCaptureStatus status;
  uint64_t id = 0;
  if (C10_UNLIKELY(orStreamGetCaptureInfo(stream, &status, &id) != orSuccess)) {
    (void)orGetLastError(); // a destroyed stream captures nothing
  }
  return id;
}

inline bool is_capturing(orStream_t stream) {
  return capture_of(stream) != 0;
}

// For what needs a result now where the device cannot tell: if the stream is
// capturing, invalidates the capture and raises. `what` begins the message.
inline void check_not_capturing(orStream_t stream, const char* what) {
  if (C10_UNLIKELY(is_capturing(stream))) {
    (void)orStreamQuery(stream); // not permitted either
    (void)orGetLastError();
    throw c10::AcceleratorError({__func__, __FILE__, static_cast<uint32_t>(__LINE__)},
                                static_cast<int32_t>(orErrorStreamCaptureUnsupported),
                                std::string(what) + ": " +
                                    orGetErrorString(orErrorStreamCaptureUnsupported));
  }
}

// While it lives, the calling thread may make calls that are dangerous while
// somebody captures (Note [Stream capture]).
class RelaxedCapture {
 public:
  explicit RelaxedCapture(bool active = true) : active_(active) {
    exchange();
  }
  ~RelaxedCapture() {
    exchange();
  }
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

 private:
  void exchange() {
    if (active_) {
      (void)orThreadExchangeStreamCaptureMode(&mode_);
    }
  }

  const bool active_;
  orStreamCaptureMode mode_ = orStreamCaptureModeRelaxed;
};

} // namespace c10::openreg

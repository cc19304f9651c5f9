#pragma once

// A point in a stream's order, and whether the device has passed it: how the
// allocators know that a stream is done with memory.
//
// Note [Stream points]
// Allocators of other devices record an event for this. A point is cheaper, it
// is two integers, and asking it never returns the error of a failed kernel:
// the device reports that once, and it must go to the user's next
// synchronisation, not to an allocator. A device without progress counters
// keeps an event here instead.

#include <cstdint>
#include <limits>

#include "runtime/Exception.h"

namespace c10::openreg {

struct StreamProgress {
  uint64_t issued;
  uint64_t completed;
};

// False if the stream has been destroyed. Never throws, never waits.
inline bool stream_progress(orStream_t stream, StreamProgress& progress) {
  if (C10_LIKELY(orStreamGetProgress(stream, &progress.issued, &progress.completed) == orSuccess)) {
    return true;
  }
  // Dealt with here; must not be found as somebody's last error.
  (void)orGetLastError();
  return false;
}

// The number of pieces of work issued on the stream. More than will ever
// complete if the stream has been destroyed: what was queued may still run.
inline uint64_t issued_count(orStream_t stream) {
  StreamProgress progress;
  return stream_progress(stream, progress) ? progress.issued : std::numeric_limits<uint64_t>::max();
}

struct StreamPoint {
  orStream_t stream;
  uint64_t count;

  // Behind all work queued on the stream so far.
  static StreamPoint now(orStream_t stream) {
    return {stream, issued_count(stream)};
  }

  bool reached() const {
    StreamProgress progress;
    return stream_progress(stream, progress) && progress.completed >= count;
  }
};

} // namespace c10::openreg

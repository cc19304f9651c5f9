#pragma once

#include "Device.h"
#include "Runtime.h"

namespace openreg {

inline bool isTraced(orTraceKind kind) {
  return hasFlag(kind);
}

// Calls the subscribers. Ask isTraced first. No library lock may be held: a
// subscriber may wait for what another thread holds while it calls us.
void trace(const orTraceRecord& record);

// A number for one piece of work; unique in the process.
uint64_t newCorrelation();

// Begin and end of a wait of the host.
class SyncTrace {
 public:
  SyncTrace(const char* name, int device, uint64_t stream)
      : traced_(isTraced(orTraceSync)), name_(name), device_(device), stream_(stream) {
    if (traced_) {
      emit(orTraceBegin, orSuccess);
    }
  }
  SyncTrace(const SyncTrace&) = delete;
  SyncTrace& operator=(const SyncTrace&) = delete;
  ~SyncTrace() {
    if (traced_) {
      emit(orTraceEnd, error_);
    }
  }
  orError_t end(orError_t error) {
    error_ = error;
    return error;
  }

 private:
  void emit(orTracePhase phase, orError_t error);

  const bool traced_;
  const char* const name_;
  const int device_;
  const uint64_t stream_;
  orError_t error_ = orSuccess;
};

// The one record of an allocation or a free.
void traceMemory(orTraceKind kind,
                 const char* name,
                 int device,
                 uint64_t stream,
                 const void* pointer,
                 size_t size);

} // namespace openreg

#pragma once

// What the caching allocator did, for torch.openreg.memory._record_memory_history:
// a trace of allocations, frees and segments, and the stacks they came from.
//
// Note [Memory history]
// Recording is off but for one flag that is tested at each allocation and free.
// A stack is gathered before the allocator's lock is taken, since Python's needs
// the GIL, whose holder may wait for the lock. A running kernel gathers none: a
// worker must never wait for the GIL.

#include <c10/core/CachingDeviceAllocator.h>

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "runtime/Exception.h"

namespace c10::openreg {

using Context = std::shared_ptr<c10::GatheredContext>;
using RecordContext = c10::CachingDeviceAllocator::RecordContext;
using TraceEntry = c10::CachingDeviceAllocator::TraceEntry;

struct MemoryHistoryOptions {
  bool keeps_trace = false;                     // else only the stacks of live memory
  RecordContext context = RecordContext::NEVER; // when to gather a stack
  c10::CachingDeviceAllocator::CreateContextFn gather = nullptr;
  size_t max_entries = 1; // the trace keeps the last ones
  std::vector<TraceEntry::Action> skipped_actions;
  bool keeps_annotations = false; // ranges of record_function
};

// Of all devices. The traces that there are stay unless `clear_history`.
OPENREG_API void record_memory_history(const MemoryHistoryOptions& options, bool clear_history);
OPENREG_API bool is_recording_memory_history();

// From c10::getApproximateTime, as the traces keep it, to Unix nanoseconds. Exact
// only since the recording began.
std::function<c10::time_t(c10::approx_time_t)> memory_history_clock();

// A note that the calling thread's allocations carry in the trace.
OPENREG_API void set_memory_metadata(std::string metadata);
OPENREG_API const std::string& memory_metadata();

// Beginnings and ends of the ranges, oldest first; times are Unix nanoseconds.
OPENREG_API std::vector<c10::CachingDeviceAllocator::AnnotationEntry> memory_annotations();

namespace detail {
// RecordContext, plus 16 while recording; 0: off.
extern std::atomic<int> memory_history_state;
Context gather_context(RecordContext least);
} // namespace detail

// The calling thread's stack if what is recorded includes `least`.
inline Context gather_context(RecordContext least) {
  const int state = detail::memory_history_state.load(std::memory_order_relaxed);
  if (C10_LIKELY(state == 0)) {
    return nullptr;
  }
  return detail::gather_context(least);
}

// One device's trace. Its owner locks.
class MemoryTrace {
 public:
  // Whether `add` is to be called.
  bool enabled() const {
    return enabled_;
  }
  void configure(const MemoryHistoryOptions& options, bool clear);
  void add(TraceEntry::Action action,
           c10::DeviceIndex device,
           size_t address,
           size_t size,
           void* stream,
           MempoolId_t pool,
           Context context);

  // Oldest first; times are those of c10::getApproximateTime.
  std::vector<TraceEntry> entries() const;

 private:
  bool enabled_ = false;
  bool keeps_stacks_ = false;
  uint32_t skipped_ = 0;
  size_t max_entries_ = 1;
  size_t next_ = 0;
  std::vector<TraceEntry> entries_;
};

} // namespace c10::openreg

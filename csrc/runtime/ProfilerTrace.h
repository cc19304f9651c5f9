#pragma once

// What the device did while a profiler watched: the records of the device
// library's trace, each with the operator and the ranges in which it was
// launched. Knows nothing of who draws the picture; Profiler.cpp gives it to
// Kineto.
//
// Note [Profiling]
// With no profiler on, nothing here runs: the device library tests one flag a
// launch. With one on, each thread (host threads that launch, workers that run)
// writes to lists of its own, without a lock; they are read once the trace is
// unsubscribed, which waits for the last callback. Kineto says on the launching
// thread which operator is running (push_operator); the launch's record carries
// it, and the run of the launch, on the worker, is joined to it by the
// correlation id when the profile has ended.

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "device/openreg.h"

namespace c10::openreg {

// A range that the user opened, and the one around it.
struct TraceRange {
  uint64_t id;
  const TraceRange* parent;
};

// A call of the device library on a host thread. Times are the device library's
// (CLOCK_MONOTONIC, nanoseconds).
struct TraceCall {
  orTraceKind kind;
  const char* name;
  int device;
  uint64_t stream; // 0: none, as of a synchronisation of the device
  uint64_t correlation;
  uint64_t begin;
  uint64_t end;
  int32_t thread;
  uint64_t operator_id; // 0: none
  const TraceRange* range;
};

// What ran on a stream: a kernel, copy, fill or host function.
struct TraceRun {
  orTraceKind kind;
  const char* name;
  int device;
  uint64_t stream;
  uint64_t correlation;
  uint64_t begin;
  uint64_t end;
  size_t size; // bytes of a copy or fill
  orError_t error;
  int32_t thread; // that ran it: the stream's worker, or the caller of a blocking copy
};

// Addresses in it stay as they are.
struct ThreadTrace {
  int32_t thread;
  std::deque<TraceCall> calls;
  std::deque<TraceRun> runs;
  std::deque<TraceRange> ranges;

  // While tracing:
  std::vector<uint64_t> operators;
  const TraceRange* range = nullptr;
  uint64_t run_begin = 0;
  uint64_t run_correlation = 0;
  uint64_t wait_begin = 0;
};

// One profile's recording. At most one is started at a time.
class ProfilerTrace {
 public:
  ProfilerTrace() = default;
  ProfilerTrace(const ProfilerTrace&) = delete;
  ProfilerTrace& operator=(const ProfilerTrace&) = delete;
  ~ProfilerTrace();

  // `kinds` of orTraceKind. Raises if the device library refuses.
  void start(unsigned kinds);
  void stop();

  // The operators and ranges that are running on the calling thread.
  void push_operator(uint64_t id);
  void pop_operator();
  void push_range(uint64_t id);
  void pop_range();

  // After stop.
  const std::vector<std::unique_ptr<ThreadTrace>>& threads() const {
    return threads_;
  }

 private:
  static void on_record(const orTraceRecord* record, void* self);
  void add(const orTraceRecord& record);
  ThreadTrace& this_thread();

  std::atomic<bool> started_{false};
  uint64_t subscription_ = 0;
  // Tells the traces apart by which a thread remembers its lists.
  uint64_t generation_ = 0;
  std::mutex mutex_;
  std::vector<std::unique_ptr<ThreadTrace>> threads_;
};

// Times of the device library as nanoseconds since the Unix epoch, which is what
// Kineto's times are. The two clocks drift (NTP), so they are compared twice.
class TraceClock {
 public:
  void start() {
    start_ = now();
  }
  void stop() {
    stop_ = now();
  }
  int64_t to_unix(uint64_t time) const;

 private:
  struct Pair {
    int64_t monotonic;
    int64_t epoch;
  };
  static Pair now();

  Pair start_{};
  Pair stop_{};
};

} // namespace c10::openreg

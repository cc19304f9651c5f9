#include "runtime/ProfilerTrace.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <ctime>

#include "runtime/Exception.h"

namespace c10::openreg {
namespace {

int64_t nanoseconds(clockid_t clock) {
  timespec time;
  clock_gettime(clock, &time);
  return int64_t{time.tv_sec} * 1000000000 + time.tv_nsec;
}

uint64_t next_generation() {
  static std::atomic<uint64_t> last{0};
  return ++last;
}

} // namespace

ProfilerTrace::~ProfilerTrace() {
  stop();
}

void ProfilerTrace::start(unsigned kinds) {
  generation_ = next_generation();
  OPENREG_CHECK(orTraceSubscribe(&subscription_, kinds, &on_record, this));
  started_ = true;
}

void ProfilerTrace::stop() {
  if (started_.exchange(false)) {
    // Fails only in a forked child, where nothing is recorded either.
    (void)orTraceUnsubscribe(subscription_);
  }
}

ThreadTrace& ProfilerTrace::this_thread() {
  thread_local uint64_t generation = 0;
  thread_local ThreadTrace* trace = nullptr;
  if (generation != generation_) {
    auto created = std::make_unique<ThreadTrace>();
    created->thread = static_cast<int32_t>(syscall(SYS_gettid));
    generation = generation_;
    trace = created.get();
    const std::lock_guard<std::mutex> guard(mutex_);
    threads_.push_back(std::move(created));
  }
  return *trace;
}

void ProfilerTrace::push_operator(uint64_t id) {
  if (started_) {
    this_thread().operators.push_back(id);
  }
}

void ProfilerTrace::pop_operator() {
  if (started_ && !this_thread().operators.empty()) {
    this_thread().operators.pop_back();
  }
}

void ProfilerTrace::push_range(uint64_t id) {
  if (started_) {
    ThreadTrace& trace = this_thread();
    trace.ranges.push_back({id, trace.range});
    trace.range = &trace.ranges.back();
  }
}

void ProfilerTrace::pop_range() {
  if (started_) {
    ThreadTrace& trace = this_thread();
    trace.range = trace.range == nullptr ? nullptr : trace.range->parent;
  }
}

void ProfilerTrace::on_record(const orTraceRecord* record, void* self) {
  static_cast<ProfilerTrace*>(self)->add(*record);
}

void ProfilerTrace::add(const orTraceRecord& record) {
  ThreadTrace& trace = this_thread();
  const bool is_wait = record.kind == orTraceSync;
  constexpr unsigned kNoWork = orTraceEventRecord | orTraceEventWait | orTraceGraph;
  if (record.phase != orTraceEnqueue && (record.kind & kNoWork)) {
    return; // takes none of the device's time; what a graph's nodes take is theirs
  }
  switch (record.phase) {
    case orTraceEnqueue:
      break;
    case orTraceBegin:
      if (is_wait) {
        trace.wait_begin = record.time;
      } else {
        trace.run_begin = record.time;
        trace.run_correlation = record.correlation;
      }
      return;
    case orTraceEnd:
      if (!is_wait) {
        // One that began before the profile did is no part of it.
        if (trace.run_begin != 0 && trace.run_correlation == record.correlation) {
          trace.runs.push_back({record.kind, record.name, record.device, record.stream,
                                record.correlation, trace.run_begin, record.time, record.size,
                                record.error, trace.thread});
        }
        trace.run_begin = 0;
        return;
      }
      if (trace.wait_begin == 0) {
        return;
      }
      break;
  }
  trace.calls.push_back(
      {record.kind, record.name, record.device, record.stream, record.correlation,
       is_wait ? trace.wait_begin : record.time,
       is_wait ? record.time : static_cast<uint64_t>(nanoseconds(CLOCK_MONOTONIC)), trace.thread,
       trace.operators.empty() ? 0 : trace.operators.back(), trace.range});
  if (is_wait) {
    trace.wait_begin = 0;
  }
}

TraceClock::Pair TraceClock::now() {
  // Of several readings, the one least disturbed.
  Pair best{};
  int64_t least = -1;
  for (int i = 0; i < 16; ++i) {
    const int64_t before = nanoseconds(CLOCK_MONOTONIC);
    const int64_t epoch = nanoseconds(CLOCK_REALTIME);
    const int64_t after = nanoseconds(CLOCK_MONOTONIC);
    if (least < 0 || after - before < least) {
      least = after - before;
      best = {before + (after - before) / 2, epoch};
    }
  }
  return best;
}

int64_t TraceClock::to_unix(uint64_t time) const {
  const int64_t since_start = static_cast<int64_t>(time) - start_.monotonic;
  const int64_t elapsed = stop_.monotonic - start_.monotonic;
  const int64_t drift = (stop_.epoch - start_.epoch) - elapsed;
  const double part =
      elapsed <= 0 ? 0 : static_cast<double>(since_start) / static_cast<double>(elapsed);
  return start_.epoch + since_start + static_cast<int64_t>(part * static_cast<double>(drift));
}

} // namespace c10::openreg

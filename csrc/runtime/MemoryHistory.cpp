#include "runtime/MemoryHistory.h"

#include <ATen/record_function.h>

#include <algorithm>

#include "runtime/CachingAllocator.h"

namespace c10::openreg {

namespace detail {

constexpr int kRecording = 16;

std::atomic<int> memory_history_state{0};

} // namespace detail

namespace {

using AnnotationEntry = c10::CachingDeviceAllocator::AnnotationEntry;

thread_local std::string metadata;

std::atomic<c10::CachingDeviceAllocator::CreateContextFn> gather_function{nullptr};

// The ranges of record_function while recording.
struct Annotations {
  std::mutex mutex;
  at::CallbackHandle callback = at::INVALID_CALLBACK_HANDLE;
  size_t max_entries = 1;
  size_t next = 0;
  std::vector<AnnotationEntry> entries;

  void add(const char* stage, const char* name) {
    AnnotationEntry entry(current_device(), c10::getApproximateTime());
    entry.recordUserMetadata("name", name);
    entry.recordUserMetadata("stage", stage);
    const std::lock_guard<std::mutex> guard(mutex);
    if (entries.size() < max_entries) {
      entries.push_back(std::move(entry));
    } else if (!entries.empty()) {
      entries[next] = std::move(entry);
      next = (next + 1) % entries.size();
    }
  }
};

Annotations& annotations() {
  static auto& instance = *new Annotations();
  return instance;
}

void configure_annotations(const MemoryHistoryOptions& options, bool clear) {
  Annotations& all = annotations();
  const std::lock_guard<std::mutex> guard(all.mutex);
  if (clear) {
    all.entries.clear();
    all.next = 0;
  }
  all.max_entries = options.max_entries;
  if (all.callback != at::INVALID_CALLBACK_HANDLE) {
    at::removeCallback(all.callback);
    all.callback = at::INVALID_CALLBACK_HANDLE;
  }
  if (options.keeps_annotations) {
    all.callback = at::addGlobalCallback(
        at::RecordFunctionCallback(
            [](const at::RecordFunction& range) -> std::unique_ptr<at::ObserverContext> {
              annotations().add("START", range.name());
              return nullptr;
            },
            [](const at::RecordFunction& range, at::ObserverContext*) {
              annotations().add("END", range.name());
            })
            .scopes({at::RecordScope::USER_SCOPE}));
  }
}

// Two readings far apart give the approximate clock's rate.
struct Clock {
  std::mutex mutex;
  c10::ApproximateClockToUnixTimeConverter converter;
};

Clock& clock() {
  static auto& instance = *new Clock();
  return instance;
}

uint32_t bit(TraceEntry::Action action) {
  return uint32_t{1} << static_cast<int>(action);
}

} // namespace

Context detail::gather_context(RecordContext least) {
  const int state = memory_history_state.load(std::memory_order_relaxed);
  const auto gather = gather_function.load(std::memory_order_relaxed);
  if (state == 0 || (state & (kRecording - 1)) < static_cast<int>(least) || gather == nullptr) {
    return nullptr;
  }
  return gather();
}

std::function<c10::time_t(c10::approx_time_t)> memory_history_clock() {
  const std::lock_guard<std::mutex> guard(clock().mutex);
  return clock().converter.makeConverter();
}

void record_memory_history(const MemoryHistoryOptions& options, bool clear_history) {
  const bool on = options.keeps_trace || options.context != RecordContext::NEVER;
  clock();
  gather_function = options.gather;
  configure_annotations(options, clear_history);
  CachingAllocator::configure_history(options, clear_history);
  detail::memory_history_state = on ? detail::kRecording + static_cast<int>(options.context) : 0;
}

bool is_recording_memory_history() {
  return detail::memory_history_state != 0;
}

void set_memory_metadata(std::string value) {
  metadata = std::move(value);
}

const std::string& memory_metadata() {
  return metadata;
}

std::vector<AnnotationEntry> memory_annotations() {
  const auto to_unix = memory_history_clock();
  Annotations& all = annotations();
  std::vector<AnnotationEntry> entries;
  {
    const std::lock_guard<std::mutex> guard(all.mutex);
    entries = all.entries;
    std::rotate(entries.begin(), entries.begin() + static_cast<ptrdiff_t>(all.next), entries.end());
  }
  for (AnnotationEntry& entry : entries) {
    entry.time_.t_ = to_unix(entry.time_.approx_t_);
  }
  return entries;
}

void MemoryTrace::configure(const MemoryHistoryOptions& options, bool clear) {
  const size_t max_entries = std::max<size_t>(options.max_entries, 1);
  if (clear) {
    entries_.clear();
    next_ = 0;
  } else if (max_entries != max_entries_) {
    // The ring begins anew, with the last entries that it has room for.
    entries_ = entries();
    next_ = 0;
    if (entries_.size() > max_entries) {
      entries_.erase(entries_.begin(), entries_.end() - static_cast<ptrdiff_t>(max_entries));
    }
  }
  enabled_ = options.keeps_trace;
  keeps_stacks_ = options.context >= RecordContext::ALLOC;
  max_entries_ = max_entries;
  skipped_ = 0;
  for (TraceEntry::Action action : options.skipped_actions) {
    skipped_ |= bit(action);
  }
}

void MemoryTrace::add(TraceEntry::Action action,
                      c10::DeviceIndex device,
                      size_t address,
                      size_t size,
                      void* stream,
                      MempoolId_t pool,
                      Context context) {
  if (skipped_ & bit(action)) {
    return;
  }
  TraceEntry entry(action, device, address, size, stream, pool, c10::getApproximateTime(),
                   keeps_stacks_ ? std::move(context) : nullptr, "", metadata);
  if (entries_.size() < max_entries_) {
    entries_.push_back(std::move(entry));
  } else {
    entries_[next_] = std::move(entry);
    next_ = (next_ + 1) % max_entries_;
  }
}

std::vector<TraceEntry> MemoryTrace::entries() const {
  std::vector<TraceEntry> ordered = entries_;
  std::rotate(ordered.begin(), ordered.begin() + static_cast<ptrdiff_t>(next_), ordered.end());
  return ordered;
}

} // namespace c10::openreg

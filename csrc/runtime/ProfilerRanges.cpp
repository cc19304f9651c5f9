#include "runtime/ProfilerRanges.h"

#include <ATen/record_function.h>

#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace c10::openreg {
namespace {

using Range = std::unique_ptr<at::RecordFunction>;

Range open(const std::string& message) {
  auto range = std::make_unique<at::RecordFunction>(at::RecordScope::USER_SCOPE);
  if (range->isActive()) {
    range->before(message);
  }
  return range;
}

std::vector<Range>& stack() {
  thread_local std::vector<Range> ranges;
  return ranges;
}

struct Started {
  std::mutex mutex;
  uint64_t last = 0;
  std::unordered_map<uint64_t, Range> ranges;
};

Started& started() {
  static auto& instance = *new Started();
  return instance;
}

} // namespace

int range_push(const std::string& message) {
  std::vector<Range>& ranges = stack();
  ranges.push_back(open(message));
  return static_cast<int>(ranges.size()) - 1;
}

int range_pop() {
  std::vector<Range>& ranges = stack();
  if (ranges.empty()) {
    return -1;
  }
  ranges.pop_back();
  return static_cast<int>(ranges.size());
}

uint64_t range_start(const std::string& message) {
  Range range = open(message);
  range->_setAsync();
  Started& all = started();
  const std::lock_guard<std::mutex> guard(all.mutex);
  const uint64_t id = ++all.last;
  all.ranges.emplace(id, std::move(range));
  return id;
}

void range_end(uint64_t id) {
  Started& all = started();
  Range range;
  {
    const std::lock_guard<std::mutex> guard(all.mutex);
    const auto found = all.ranges.find(id);
    TORCH_CHECK_VALUE(found != all.ranges.end(), "range_end: no range ", id,
                      " is open; expected what range_start returned");
    range = std::move(found->second);
    all.ranges.erase(found);
  }
  range->end();
}

void range_mark(const std::string& message) {
  open(message);
}

} // namespace c10::openreg

#include "aten/FallbackLog.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <unordered_map>

namespace at::openreg {
namespace {

const char* const kModes[] = {"allow", "warn", "error"};

enum class Mode { Allow, Warn, Error };

Mode parse(const std::string& text, const char* source) {
  for (int i = 0; i < 3; ++i) {
    if (text == kModes[i]) {
      return static_cast<Mode>(i);
    }
  }
  C10_THROW_ERROR(
      ValueError,
      c10::str(source, ": expected \"allow\", \"warn\" or \"error\", got \"", text, "\""));
}

struct Log {
  std::mutex mutex;
  std::unordered_map<std::string, int64_t> counts;
  Mode mode;

  Log() {
    const char* text = std::getenv("OPENREG_FALLBACK");
    mode = text == nullptr || *text == '\0' ? Mode::Allow : parse(text, "OPENREG_FALLBACK");
  }
};

Log& log() {
  static Log* instance = new Log();
  return *instance;
}

} // namespace

void log_fallback(const std::string& op) {
  Log& state = log();
  bool first = false;
  Mode mode{};
  {
    std::lock_guard<std::mutex> guard(state.mutex);
    first = ++state.counts[op] == 1;
    mode = state.mode;
  }
  if (mode == Mode::Error) {
    C10_THROW_ERROR(
        NotImplementedError,
        c10::str("The operator '", op,
                 "' has no asynchronous openreg kernel and OPENREG_FALLBACK=error forbids the "
                 "synchronous fallback"));
  }
  if (mode == Mode::Warn && first) {
    TORCH_WARN("The operator '", op,
               "' has no asynchronous openreg kernel: it waits for the stream and runs on the host "
               "thread");
  }
}

std::vector<std::pair<std::string, int64_t>> fallback_counts() {
  Log& state = log();
  std::vector<std::pair<std::string, int64_t>> result;
  {
    std::lock_guard<std::mutex> guard(state.mutex);
    result.assign(state.counts.begin(), state.counts.end());
  }
  std::sort(result.begin(), result.end(), [](const auto& a, const auto& b) {
    return std::make_pair(-a.second, a.first) < std::make_pair(-b.second, b.first);
  });
  return result;
}

void reset_fallback_counts() {
  std::lock_guard<std::mutex> guard(log().mutex);
  log().counts.clear();
}

void set_fallback_mode(const std::string& mode) {
  const Mode parsed = parse(mode, "fallback mode");
  std::lock_guard<std::mutex> guard(log().mutex);
  log().mode = parsed;
}

std::string get_fallback_mode() {
  std::lock_guard<std::mutex> guard(log().mutex);
  return kModes[static_cast<int>(log().mode)];
}

} // namespace at::openreg

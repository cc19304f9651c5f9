#include "Profile.h"

#include <sched.h>
#include <sys/prctl.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "Device.h"
#include "Memory.h"
#include "Runtime.h"
#include "Wait.h"

namespace openreg {

bool ThrottledRun::anyThrottle = false;

namespace {

constexpr unsigned kIntegers = orDtypeUint8 | orDtypeInt8 | orDtypeUint16 | orDtypeInt16 |
                               orDtypeUint32 | orDtypeInt32 | orDtypeUint64 | orDtypeInt64;

// PyTorch's names; "integer" is all integers.
constexpr struct {
  const char* name;
  unsigned dtypes;
} kDtypes[] = {
    {"bool", orDtypeBool},
    {"integer", kIntegers},
    {"uint8", orDtypeUint8},
    {"int8", orDtypeInt8},
    {"uint16", orDtypeUint16},
    {"int16", orDtypeInt16},
    {"uint32", orDtypeUint32},
    {"int32", orDtypeInt32},
    {"uint64", orDtypeUint64},
    {"int64", orDtypeInt64},
    {"float4_e2m1fn_x2", orDtypeFloat4E2m1fnX2},
    {"float8_e4m3fn", orDtypeFloat8E4m3fn},
    {"float8_e4m3fnuz", orDtypeFloat8E4m3fnuz},
    {"float8_e5m2", orDtypeFloat8E5m2},
    {"float8_e5m2fnuz", orDtypeFloat8E5m2fnuz},
    {"float8_e8m0fnu", orDtypeFloat8E8m0fnu},
    {"float16", orDtypeFloat16},
    {"bfloat16", orDtypeBfloat16},
    {"float32", orDtypeFloat32},
    {"float64", orDtypeFloat64},
    {"complex32", orDtypeComplex32},
    {"complex64", orDtypeComplex64},
    {"complex128", orDtypeComplex128},
};

std::string trimmed(const std::string& text) {
  const char* blanks = " \t\r\n";
  size_t begin = text.find_first_not_of(blanks);
  return begin == std::string::npos ? ""
                                    : text.substr(begin, text.find_last_not_of(blanks) - begin + 1);
}

// The parts between separators, without blanks around them.
std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) {
    parts.push_back(trimmed(part));
  }
  return parts;
}

bool parseName(const std::string& text, Profile* profile) {
  profile->name = text;
  return !text.empty() && text.size() < sizeof(orDeviceProp::name);
}

bool parseMemory(const std::string& text, Profile* profile) {
  return parseDeviceMemory(text.c_str(), &profile->memory);
}

// A list of what there is, or, each with a minus, of what there is not.
bool parseDtypes(const std::string& text, Profile* profile) {
  unsigned listed = 0;
  const bool without = !text.empty() && text[0] == '-';
  for (const std::string& item : split(text, '|')) {
    if (item.empty() || (item[0] == '-') != without) {
      return false;
    }
    const std::string name = item.substr(without);
    const auto* known = std::find_if(std::begin(kDtypes), std::end(kDtypes),
                                     [&](const auto& dtype) { return name == dtype.name; });
    if (known == std::end(kDtypes)) {
      return false;
    }
    listed |= known->dtypes;
  }
  profile->dtypes = without ? orDtypeAll & ~listed : listed;
  return listed != 0;
}

bool parseCompute(const std::string& text, Profile* profile) {
  if (text.empty() || !isdigit(static_cast<unsigned char>(text[0]))) {
    return false;
  }
  char* end = nullptr;
  profile->compute = strtod(text.c_str(), &end) / 100;
  return *end == '%' && !end[1] && profile->compute >= 0.001 && profile->compute <= 1;
}

bool parseLink(const std::string& text, Profile* profile) {
  unsigned long long value = 0;
  profile->link = parseSize(text.c_str(), &value) ? static_cast<double>(value) : 0;
  return value != 0;
}

constexpr struct {
  const char* name;
  bool (*parse)(const std::string& text, Profile* profile);
  const char* expected;
} kKeys[] = {
    {"name", &parseName, "a name of 1 to 63 characters"},
    {"memory", &parseMemory, "a size from 2MiB to 1TiB such as \"8GiB\" or \"512M\""},
    {"dtypes", &parseDtypes,
     "names of dtypes separated by | such as \"float32|bfloat16|integer|bool\", or each with a "
     "minus for those that are missing, such as \"-float64|-complex128\""},
    {"compute", &parseCompute, "a share from 0.1% to 100% such as \"50%\""},
    {"link", &parseLink, "bytes a second such as \"8G\" or \"512MiB\""},
};

orError_t parseProfile(const std::string& text, size_t number, Profile* profile) {
  if (text == "default") {
    return orSuccess;
  }
  unsigned seen = 0;
  for (const std::string& setting : split(text, ',')) {
    size_t equals = setting.find('=');
    const std::string name = trimmed(setting.substr(0, equals));
    const auto* key = std::find_if(std::begin(kKeys), std::end(kKeys),
                                   [&](const auto& known) { return name == known.name; });
    unsigned bit = 1u << (key - std::begin(kKeys));
    if (key == std::end(kKeys) || equals == std::string::npos || (seen & bit)) {
      return fail(orErrorInitialization,
                  "OPENREG_PROFILE: device %zu: expected \"default\" or KEY=VALUE separated by "
                  "commas, each key once, of name, memory, dtypes, compute and link, got \"%s\"",
                  number, setting.c_str());
    }
    seen |= bit;
    const std::string value = trimmed(setting.substr(equals + 1));
    if (!key->parse(value, profile)) {
      return fail(orErrorInitialization, "OPENREG_PROFILE: device %zu: %s: expected %s, got \"%s\"",
                  number, key->name, key->expected, value.c_str());
    }
  }
  return orSuccess;
}

// The variable's text, or that of the file it names, whose lines are devices.
orError_t readText(const char* variable, std::string* text) {
  if (variable[0] != '@') {
    *text = variable;
    return orSuccess;
  }
  std::ifstream file(variable + 1);
  text->clear();
  for (std::string line; std::getline(file, line);) {
    *text += line.substr(0, line.find('#')) + ';';
  }
  if (!file.eof()) {
    return fail(orErrorInitialization,
                "OPENREG_PROFILE: expected a readable file behind the @, got \"%s\"", variable);
  }
  return orSuccess;
}

// The run of this thread that is throttled, the innermost one.
thread_local orThrottle* running = nullptr;

double linkOf(int device) {
  return device < 0 ? 0 : config().profiles[device].link;
}

// 0: there is no limit.
double bandwidthBetween(int first, int second) {
  double one = linkOf(first);
  double other = linkOf(second);
  return one == 0 || other == 0 ? one + other : std::min(one, other);
}

uint64_t transferTime(int first, int second, size_t size) {
  double bandwidth = first == second ? 0 : bandwidthBetween(first, second);
  return bandwidth == 0 ? 0 : static_cast<uint64_t>(static_cast<double>(size) * 1e9 / bandwidth);
}

void enter(orThrottle* throttle, int device, double share, uint64_t link) {
  *throttle = {device, share, nowNanoseconds(), link, running};
  running = throttle;
}

void restUntil(uint64_t time) {
  // A sleep is as exact as the timer's slack, 50 us at first.
  static thread_local const int exact = prctl(PR_SET_TIMERSLACK, 1ul, 0ul, 0ul, 0ul);
  (void)exact;
  constexpr uint64_t kShort = 20000;
  constexpr uint64_t kSlice = 20000000; // so that a process can end soon
  for (uint64_t now = nowNanoseconds(); now < time && !hasFlag(kExiting); now = nowNanoseconds()) {
    if (time - now < kShort) {
      sched_yield();
      continue;
    }
    uint64_t until = std::min(time, now + kSlice);
    timespec end = {static_cast<time_t>(until / 1000000000u),
                    static_cast<long>(until % 1000000000u)};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &end, nullptr);
  }
}

} // namespace

orError_t readProfiles(size_t memory, std::vector<Profile>* profiles) {
  profiles->clear();
  const char* variable = getenv("OPENREG_PROFILE");
  if (!variable) {
    return orSuccess;
  }
  std::string text;
  OR_TRY(readText(variable, &text));
  for (const std::string& entry : split(text, ';')) {
    if (!entry.empty()) {
      Profile& profile = profiles->emplace_back();
      profile.memory = memory;
      OR_TRY(parseProfile(entry, profiles->size() - 1, &profile));
    }
  }
  return orSuccess;
}

void ThrottledRun::begin(int device, uint32_t kind, const void* to, const void* from, size_t size) {
  double share = config().profiles[device].compute;
  uint64_t link = 0;
  if (kind == orTraceMemcpy && deviceOfAddress(to) != deviceOfAddress(from)) {
    share = 1; // the copy engine's
    link = transferTime(deviceOfAddress(to), deviceOfAddress(from), size);
  } else if (!(kind & (orTraceKernel | orTraceMemcpy | orTraceMemset))) {
    return; // waits, stamps, host functions; the nodes of a graph come each by itself
  }
  enter(&throttle_, device, share, link);
}

} // namespace openreg

using namespace openreg;

orError_t orDeviceGetDtypes(unsigned* dtypes, int device) {
  OR_TRY(ensureReady());
  Device* found;
  OR_TRY(deviceByOrdinal("orDeviceGetDtypes", "device", device, &found));
  if (!dtypes) {
    return fail(orErrorInvalidValue, "orDeviceGetDtypes: dtypes is NULL");
  }
  *dtypes = config().profiles[device].dtypes;
  return orSuccess;
}

void orThrottleBegin(orThrottle* throttle, int device) {
  throttle->device = -1;
  if (OR_UNLIKELY(ThrottledRun::anyThrottle) && device >= 0 && device < deviceCount()) {
    enter(throttle, device, config().profiles[device].compute, 0);
  }
}

void orThrottleEnd(orThrottle* throttle) {
  if (throttle->device < 0) {
    return;
  }
  running = throttle->outer;
  auto own = static_cast<double>(nowNanoseconds() - throttle->begin);
  auto whole = static_cast<uint64_t>(own / throttle->share) + 1;
  restUntil(throttle->begin + std::max(whole, throttle->link));
}

void orThrottleTransfer(const void* dst, const void* src, size_t size) {
  if (running) {
    running->link += transferTime(deviceOfAddress(orDeviceAddress(dst)),
                                  deviceOfAddress(orDeviceAddress(src)), size);
  }
}

#include "Config.h"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "Error.h"

namespace openreg {
namespace {

constexpr size_t kGiB = size_t(1) << 30;
constexpr size_t kMinDeviceMemory = size_t(2) << 20;
constexpr size_t kMaxDeviceMemory = size_t(1) << 40;
constexpr double kMaxLaunchTimeout = 1e6; // seconds

// A decimal number without sign or blanks. *end is left behind it.
bool parseNumber(const char* text, unsigned long long* value, const char** end) {
  if (!isdigit(static_cast<unsigned char>(*text))) {
    return false;
  }
  char* behind = nullptr;
  errno = 0;
  *value = strtoull(text, &behind, 10);
  *end = behind;
  return errno == 0;
}

// `count` is what it is if the variable does not say.
orError_t readDeviceCount(int* count) {
  const char* text = getenv("OPENREG_DEVICE_COUNT");
  if (!text) {
    return orSuccess;
  }
  unsigned long long value = 0;
  const char* end = nullptr;
  if (!parseNumber(text, &value, &end) || *end || value > kMaxDevices) {
    return fail(orErrorInitialization,
                "OPENREG_DEVICE_COUNT: expected a number from 0 to %d, got \"%s\"", kMaxDevices,
                text);
  }
  *count = static_cast<int>(value);
  return orSuccess;
}

orError_t readVisibleDevices(int count, std::vector<int>* visible) {
  visible->clear();
  const char* text = getenv("OPENREG_VISIBLE_DEVICES");
  if (!text) {
    for (int i = 0; i < count; ++i) {
      visible->push_back(i);
    }
    return orSuccess;
  }
  for (const char* at = text; *at;) {
    unsigned long long value = 0;
    const char* end = at;
    bool good = parseNumber(at, &value, &end) &&
                (*end == '\0' || (*end == ',' && end[1] != '\0')) &&
                value < static_cast<unsigned long long>(count) &&
                std::find(visible->begin(), visible->end(), int(value)) == visible->end();
    if (!good) {
      return fail(orErrorInitialization,
                  "OPENREG_VISIBLE_DEVICES: expected distinct device numbers below %d "
                  "(OPENREG_DEVICE_COUNT) separated by commas, got \"%s\"",
                  count, text);
    }
    visible->push_back(static_cast<int>(value));
    at = *end ? end + 1 : end;
  }
  return orSuccess;
}

size_t defaultDeviceMemory() {
  size_t physical =
      static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
  size_t half = physical / 2 / kGiB * kGiB;
  return std::clamp(half, kGiB, 16 * kGiB);
}

orError_t readDeviceMemory(size_t* size) {
  *size = defaultDeviceMemory();
  const char* text = getenv("OPENREG_DEVICE_MEMORY");
  if (!text) {
    return orSuccess;
  }
  if (!parseDeviceMemory(text, size)) {
    return fail(orErrorInitialization,
                "OPENREG_DEVICE_MEMORY: expected a size from 2MiB to 1TiB such as "
                "\"8GiB\", \"8G\", \"512MiB\", \"512M\" or a number of bytes, got \"%s\"",
                text);
  }
  return orSuccess;
}

// One for each device that there is, in physical order.
orError_t readDevices(std::vector<Profile>* profiles) {
  size_t memory = 0;
  OR_TRY(readDeviceMemory(&memory));
  OR_TRY(readProfiles(memory, profiles));
  int count = profiles->empty() ? 2 : static_cast<int>(profiles->size());
  OR_TRY(readDeviceCount(&count));
  if (static_cast<int>(profiles->size()) > count || count > kMaxDevices) {
    return fail(orErrorInitialization,
                "OPENREG_PROFILE: expected at most %d devices (OPENREG_DEVICE_COUNT), got %zu",
                std::min(count, kMaxDevices), profiles->size());
  }
  Profile plain;
  plain.memory = memory;
  profiles->resize(count, plain);
  return orSuccess;
}

orError_t readSwitch(const char* name, bool* value) {
  *value = false;
  const char* text = getenv(name);
  if (!text || !*text || !strcmp(text, "0")) {
    return orSuccess;
  }
  if (!strcmp(text, "1")) {
    *value = true;
    return orSuccess;
  }
  return fail(orErrorInitialization, "%s: expected 0 or 1, got \"%s\"", name, text);
}

} // namespace

bool parseSize(const char* text, unsigned long long* size) {
  unsigned long long value = 0;
  const char* unit = nullptr;
  if (!parseNumber(text, &value, &unit)) {
    return false;
  }
  int shift = 0;
  if (*unit) {
    static const char kUnits[] = "KMGT";
    const char* known = strchr(kUnits, *unit);
    if (!known || (unit[1] && strcmp(unit + 1, "iB"))) {
      return false;
    }
    shift = 10 * static_cast<int>(known - kUnits + 1);
  }
  *size = value << shift;
  return *size >> shift == value;
}

bool parseDeviceMemory(const char* text, size_t* size) {
  unsigned long long value = 0;
  if (!parseSize(text, &value) || value > kMaxDeviceMemory || value < kMinDeviceMemory) {
    return false;
  }
  // Whole pages: the windows of the devices lie side by side.
  *size = static_cast<size_t>(value) & ~size_t(4095);
  return true;
}

orError_t readLaunchTimeout(uint64_t* nanoseconds) {
  *nanoseconds = 0;
  const char* text = getenv("OPENREG_LAUNCH_TIMEOUT");
  if (!text || !*text) {
    return orSuccess;
  }
  char* end = nullptr;
  double seconds = strtod(text, &end);
  bool is_number = isdigit(static_cast<unsigned char>(*text)) || *text == '.';
  if (!is_number || *end || !std::isfinite(seconds) || seconds > kMaxLaunchTimeout) {
    return fail(
        orErrorInitialization,
        "OPENREG_LAUNCH_TIMEOUT: expected seconds such as \"30\" or \"0.5\", at most %g, or "
        "0 for no limit, got \"%s\"",
        kMaxLaunchTimeout, text);
  }
  *nanoseconds = static_cast<uint64_t>(std::ceil(seconds * 1e9));
  return orSuccess;
}

orError_t readConfig(Config* config) {
  std::vector<Profile> devices;
  OR_TRY(readDevices(&devices));
  OR_TRY(readVisibleDevices(static_cast<int>(devices.size()), &config->visible_devices));
  config->profiles.clear();
  for (int physical : config->visible_devices) {
    config->profiles.push_back(devices[physical]);
  }
  OR_TRY(readSwitch("OPENREG_LAUNCH_BLOCKING", &config->launch_blocking));
  OR_TRY(readSwitch("OPENREG_STICKY_ERRORS", &config->sticky_errors));
  OR_TRY(readSwitch("OPENREG_MEMORY_CHECK", &config->memory_check));
  OR_TRY(readLaunchTimeout(&config->launch_timeout));
  return orSuccess;
}

} // namespace openreg

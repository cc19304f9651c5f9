#include "Config.h"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "Error.h"

namespace openreg {
namespace {

constexpr size_t kGiB = size_t(1) << 30;
constexpr size_t kMinDeviceMemory = size_t(2) << 20;
constexpr size_t kMaxDeviceMemory = size_t(1) << 40;

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

orError_t readDeviceCount(int* count) {
  *count = 2;
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
  unsigned long long value = 0;
  const char* unit = nullptr;
  bool good = parseNumber(text, &value, &unit);
  int shift = 0;
  if (good && *unit) {
    static const char kUnits[] = "KMGT";
    const char* known = strchr(kUnits, *unit);
    good = known != nullptr && (!unit[1] || !strcmp(unit + 1, "iB"));
    shift = good ? 10 * static_cast<int>(known - kUnits + 1) : 0;
  }
  if (!good || value > (kMaxDeviceMemory >> shift) || (value << shift) < kMinDeviceMemory) {
    return fail(orErrorInitialization,
                "OPENREG_DEVICE_MEMORY: expected a size from 2MiB to 1TiB such as "
                "\"8GiB\", \"8G\", \"512MiB\", \"512M\" or a number of bytes, got \"%s\"",
                text);
  }
  // Whole pages: the windows of the devices lie side by side.
  *size = static_cast<size_t>(value << shift) & ~size_t(4095);
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

orError_t readConfig(Config* config) {
  int count = 0;
  OR_TRY(readDeviceCount(&count));
  OR_TRY(readVisibleDevices(count, &config->visible_devices));
  OR_TRY(readDeviceMemory(&config->device_memory));
  OR_TRY(readSwitch("OPENREG_LAUNCH_BLOCKING", &config->launch_blocking));
  OR_TRY(readSwitch("OPENREG_STICKY_ERRORS", &config->sticky_errors));
  OR_TRY(readSwitch("OPENREG_MEMORY_CHECK", &config->memory_check));
  return orSuccess;
}

} // namespace openreg

#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "Profile.h"
#include "openreg.h"

namespace openreg {

// All OPENREG_* variables that the device reads. docs/environment.md is the
// table for users; nothing but this and Profile.cpp calls getenv.
struct Config {
  std::vector<int> visible_devices; // physical numbers in visible order
  std::vector<Profile> profiles;    // OPENREG_PROFILE, of the visible devices
  bool launch_blocking;             // OPENREG_LAUNCH_BLOCKING
  bool sticky_errors;               // OPENREG_STICKY_ERRORS
  bool memory_check;                // OPENREG_MEMORY_CHECK
  uint64_t launch_timeout;          // OPENREG_LAUNCH_TIMEOUT in nanoseconds; 0: none
};

constexpr int kMaxDevices = 64;

// Fails with orErrorInitialization and a message that names the variable, what
// was expected and what came.
orError_t readConfig(Config* config);
orError_t readLaunchTimeout(uint64_t* nanoseconds);

// "8GiB", "8G", "512MiB", "512M" or a number of bytes. False: it is none of these.
bool parseSize(const char* text, unsigned long long* size);
// The same for a device's capacity, in whole pages.
bool parseDeviceMemory(const char* text, size_t* size);

} // namespace openreg

#pragma once

#include <cstddef>
#include <vector>

#include "openreg.h"

namespace openreg {

// All OPENREG_* variables that the device reads. docs/environment.md is the
// table for users; nothing else in csrc/device calls getenv.
struct Config {
  std::vector<int> visible_devices; // physical numbers in visible order
  size_t device_memory;             // OPENREG_DEVICE_MEMORY, a device's capacity
  bool launch_blocking;             // OPENREG_LAUNCH_BLOCKING
  bool sticky_errors;               // OPENREG_STICKY_ERRORS
  bool memory_check;                // OPENREG_MEMORY_CHECK
};

constexpr int kMaxDevices = 64;

// Fails with orErrorInitialization and a message that names the variable, what
// was expected and what came.
orError_t readConfig(Config* config);

} // namespace openreg

#pragma once

// What the device's watchdog (csrc/device/openreg_watchdog.h) is told about a
// launch: the operators that run on the launching thread, and its Python stack.
// Gathered where the outermost operator begins: there, unlike where it launches,
// no lock of ours is held that the GIL's holder might wait for.

#include <memory>
#include <string>

#include "runtime/Exception.h"

namespace c10::openreg {

// A stack that can be read by any thread without the GIL.
class LaunchStack {
 public:
  virtual ~LaunchStack() = default;
  virtual std::string describe() const = 0; // lines
};

// Returns nullptr for a thread that runs no Python.
using GatherLaunchStack = std::shared_ptr<LaunchStack> (*)();

// Does nothing without OPENREG_LAUNCH_TIMEOUT.
OPENREG_API void install_launch_origin(GatherLaunchStack gather);

// Stands for an operator, for what launches work without being one.
class OPENREG_API LaunchScope {
 public:
  explicit LaunchScope(const char* name);
  ~LaunchScope();
  LaunchScope(const LaunchScope&) = delete;
  LaunchScope& operator=(const LaunchScope&) = delete;

 private:
  bool active_;
};

} // namespace c10::openreg

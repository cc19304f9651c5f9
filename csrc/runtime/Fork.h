#pragma once

// Neither the device nor the state of the allocators can be used in the child
// of a process that used them: another thread may have held their locks.

#include <atomic>

namespace c10::openreg {

extern std::atomic<bool> in_forked_child_flag;

// True in a child forked after watch_for_fork was called.
inline bool in_forked_child() {
  return in_forked_child_flag.load(std::memory_order_relaxed);
}

// To be called before the first use of anything that a child cannot use.
void watch_for_fork();

// Raises in a forked child, as the device library would.
void check_not_forked();

} // namespace c10::openreg

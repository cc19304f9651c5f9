#include "runtime/Fork.h"

#include <c10/util/Exception.h>
#include <pthread.h>

namespace c10::openreg {

std::atomic<bool> in_forked_child_flag{false};

void watch_for_fork() {
  static const int registered [[maybe_unused]] =
      pthread_atfork(nullptr, nullptr, [] { in_forked_child_flag = true; });
}

void check_not_forked() {
  TORCH_CHECK(!in_forked_child(),
              "Cannot re-initialize openreg in forked subprocess. To use openreg with "
              "multiprocessing, you must use the 'spawn' start method");
}

} // namespace c10::openreg

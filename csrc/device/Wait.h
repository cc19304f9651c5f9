#pragma once

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>

// How this library waits. Nothing here spins without a bound: a spin that has
// not been answered soon ends in the kernel.

namespace openreg {

inline uint64_t nowNanoseconds() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return uint64_t(time.tv_sec) * 1000000000u + uint64_t(time.tv_nsec);
}

inline void cpuRelax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("yield");
#endif
}

// Sleeps while *word == expected. May return early; callers loop.
inline void futexWait(std::atomic<uint32_t>* word, uint32_t expected) {
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, nullptr, nullptr, 0);
}

inline void futexWake(std::atomic<uint32_t>* word, int count) {
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, nullptr, nullptr, 0);
}

// For sections of some ten nanoseconds on the launch path. Release is a plain
// store: an atomic exchange there (which a futex protocol needs) would wait for
// the cache lines of the record just written to come over from the worker's
// core. So a waiter cannot be woken; it sleeps in growing steps instead, and
// the holder, preempted or of lower priority, gets the core.
class SpinLock {
 public:
  void lock() {
    if (locked_.exchange(1, std::memory_order_acquire)) {
      lockContended();
    }
  }
  void unlock() {
    locked_.store(0, std::memory_order_release);
  }

 private:
  __attribute__((noinline)) void lockContended() {
    long sleep = 10000;
    for (int attempt = 0;; ++attempt) {
      for (int i = 0; i < 100; ++i) {
        if (!locked_.load(std::memory_order_relaxed) &&
            !locked_.exchange(1, std::memory_order_acquire)) {
          return;
        }
        cpuRelax();
      }
      if (attempt < 3) {
        sched_yield();
      } else {
        timespec time = {0, sleep};
        nanosleep(&time, nullptr);
        sleep = sleep < 500000 ? 2 * sleep : sleep;
      }
    }
  }

  std::atomic<uint32_t> locked_{0};
};

// How long waits of one kind may spin before they sleep. Learns: a spin that
// was answered makes the next ones longer, one that was not shorter, and one
// during which the thread lost its core (somebody else needs it) much shorter.
class SpinBudget {
 public:
  // Returns whether done() came true within the budget.
  template <typename Done>
  bool spin(Done done) {
    uint32_t budget = nanoseconds_.load(std::memory_order_relaxed);
    uint64_t start = nowNanoseconds();
    uint64_t last = start;
    for (;;) {
      for (int i = 0; i < 8; ++i) {
        if (done()) {
          if (budget < kMax) {
            set(budget + budget / 2);
          }
          return true;
        }
        for (int pause = 0; pause < 16; ++pause) {
          cpuRelax();
        }
      }
      uint64_t now = nowNanoseconds();
      if (now - last > kPreempted) {
        set(kMin);
        return done();
      }
      if (now - start >= budget) {
        set(budget - budget / 4);
        return false;
      }
      last = now;
    }
  }

 private:
  static constexpr uint32_t kMin = 2000;
  static constexpr uint32_t kMax = 50000;
  static constexpr uint32_t kPreempted = 100000;

  void set(uint32_t nanoseconds) {
    nanoseconds = nanoseconds < kMin ? kMin : nanoseconds;
    nanoseconds = nanoseconds > kMax ? kMax : nanoseconds;
    nanoseconds_.store(nanoseconds, std::memory_order_relaxed);
  }

  std::atomic<uint32_t> nanoseconds_{kMax};
};

} // namespace openreg

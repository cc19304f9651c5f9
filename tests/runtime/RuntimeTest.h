#pragma once

// What the tests of csrc/runtime share, on top of the device tests' harness.

#include <algorithm>
#include <atomic>
#include <string>

#include "../device/Test.h"
#include "device/openreg_kernel.h"
#include "runtime/CachingAllocator.h"

// Each case has a process of its own, and a device that is quickly full.
#define ALLOCATOR_TEST(name) TEST_ENV(name, "OPENREG_DEVICE_MEMORY=256MiB OPENREG_DEVICE_COUNT=2")

// The statement raises the exception, and its message has the words.
#define RAISES(statement, Exception, words)                                                        \
  do {                                                                                             \
    std::string message_;                                                                          \
    try {                                                                                          \
      statement;                                                                                   \
      test::failed(__FILE__, __LINE__, #statement " raises " #Exception, "");                      \
    } catch (const Exception& e) {                                                                 \
      message_ = e.what_without_backtrace();                                                       \
    }                                                                                              \
    if (message_.find(words) == std::string::npos) {                                               \
      test::failed(__FILE__, __LINE__, #statement " says as expected",                             \
                   "expected \"" + std::string(words) + "\" in: " + message_);                     \
    }                                                                                              \
  } while (0)

namespace test {

namespace CachingAllocator = c10::openreg::CachingAllocator;
using c10::DataPtr;
using c10::openreg::current_stream_handle;
using c10::openreg::OpenRegStream;
using CachingAllocator::Order;

constexpr size_t KiB = 1024;
constexpr size_t MiB = 1024 * KiB;
constexpr size_t kCapacity = 256 * MiB;

inline c10::DeviceAllocator& allocator() {
  return *CachingAllocator::get();
}

inline DataPtr allocate(size_t nbytes, orStream_t stream, Order order = Order::Issue) {
  return CachingAllocator::allocate(nbytes, 0, stream, order);
}

inline OpenRegStream other_stream(c10::DeviceIndex device = 0) {
  return c10::openreg::get_stream_from_pool(0, device);
}

// A stream that does nothing until it is opened.
class Blocked {
 public:
  explicit Blocked(orStream_t stream) : stream_(stream) {
    OK(launch(stream, "blocked", [this] { gate_.wait(); }));
  }
  ~Blocked() {
    finish();
  }
  // Opens it and waits for it.
  void finish() {
    gate_.open();
    OK(orStreamSynchronize(stream_));
  }
  void open() {
    gate_.open();
  }

 private:
  Gate gate_;
  orStream_t stream_;
};

// Kernels that fill device memory, and that count what is not as it was filled.
inline void fill(orStream_t stream, const DataPtr& ptr, size_t size, uint32_t value) {
  OK(launch(stream, "fill", [to = backing<uint32_t>(ptr.get()), size, value] {
    std::fill(to, to + size / 4, value);
  }));
}

inline bool is_filled(const uint32_t* words, size_t size, uint32_t value) {
  return std::all_of(words, words + size / 4, [=](uint32_t word) { return word == value; });
}

inline std::atomic<int> wrong{0};

inline void verify(orStream_t stream, const DataPtr& ptr, size_t size, uint32_t value) {
  OK(launch(stream, "verify", [from = backing<uint32_t>(ptr.get()), size, value] {
    wrong += !is_filled(from, size, value);
  }));
}

// --- statistics of device 0 ---

inline c10::CachingDeviceAllocator::DeviceStats stats() {
  return allocator().getDeviceStats(0);
}

// Index 0: all, 1: small pools, 2: large pools.
inline int64_t current(const c10::CachingAllocator::StatArray& stat, int type = 0) {
  return stat[type].current;
}

// Fails unless the statistics say what the blocks say.
void check_consistency();

} // namespace test

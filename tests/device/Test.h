#pragma once

// A test program of our own: cases register themselves, each runs in a process
// of its own (the library is initialised once per process).

#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "openreg.h"
#include "openreg_kernel.h"

namespace test {

struct Case {
  const char* name;
  // "NAME=VALUE" settings, separated by blanks.
  const char* environment;
  // Children are run by other cases only.
  bool is_child;
  void (*function)();
};

bool add(const Case& test);

[[noreturn]] void
failed(const char* file, int line, const char* expression, const std::string& detail);

std::string describe(orError_t error);

struct Outcome {
  int status;         // as from waitpid
  std::string errors; // what it wrote to stderr
};
// Runs a CHILD in a process of its own.
Outcome runChild(const char* name, const char* environment = "");

// A door that kernels wait at, to show what does not wait for them.
class Gate {
 public:
  void open() {
    std::lock_guard<std::mutex> guard(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  void wait() {
    std::unique_lock<std::mutex> guard(mutex_);
    arrived_++;
    changed_.notify_all();
    changed_.wait(guard, [this] { return open_; });
  }
  // Until `count` calls of wait have begun.
  void waitForArrivals(int count) {
    std::unique_lock<std::mutex> guard(mutex_);
    changed_.wait(guard, [this, count] { return arrived_ >= count; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
  int arrived_ = 0;
};

// Launches a C++ callable. It may return orError_t or nothing and take the
// context or nothing.
template <typename Kernel>
struct ClosureOf {
  static orError_t invoke(void* closure, const orLaunchContext* context) {
    auto& kernel = *static_cast<Kernel*>(closure);
    if constexpr (std::is_invocable_r_v<orError_t, Kernel&, const orLaunchContext*>) {
      return kernel(context);
    } else if constexpr (std::is_invocable_v<Kernel&, const orLaunchContext*>) {
      kernel(context);
      return orSuccess;
    } else {
      kernel();
      return orSuccess;
    }
  }
  static constexpr orClosureType type = {
      sizeof(Kernel),
      alignof(Kernel),
      [](void* target, void* source) {
        auto* kernel = static_cast<Kernel*>(source);
        new (target) Kernel(std::move(*kernel));
        kernel->~Kernel();
      },
      invoke,
      [](void* closure) { static_cast<Kernel*>(closure)->~Kernel(); },
      nullptr};
};

template <typename Kernel>
orError_t launch(orStream_t stream, const char* name, Kernel kernel) {
  alignas(Kernel) char storage[sizeof(Kernel)];
  auto* closure = new (storage) Kernel(std::move(kernel));
  orError_t error = orLaunch(stream, name, &ClosureOf<Kernel>::type, closure);
  if (error != orSuccess && error < orErrorLaunchFailure) {
    closure->~Kernel();
  }
  return error;
}

template <typename T>
T* backing(void* device_pointer) {
  return static_cast<T*>(orBacking(device_pointer));
}

} // namespace test

#define TEST(name) TEST_ENV(name, "")
#define TEST_ENV(name, environment) TEST_CASE_(name, environment, false)
#define CHILD(name) TEST_CASE_(name, "", true)
#define TEST_CASE_(name, environment, is_child)                                                    \
  static void test_##name();                                                                       \
  static bool registered_##name = test::add({#name, environment, is_child, test_##name});          \
  static void test_##name()

#define EXPECT(condition)                                                                          \
  do {                                                                                             \
    if (!(condition)) {                                                                            \
      test::failed(__FILE__, __LINE__, #condition, "");                                            \
    }                                                                                              \
  } while (0)

#define EXPECT_EQ(actual, expected)                                                                \
  do {                                                                                             \
    auto actual_ = (actual);                                                                       \
    decltype(actual_) expected_ = (expected);                                                      \
    if (!(actual_ == expected_)) {                                                                 \
      test::failed(__FILE__, __LINE__, #actual " == " #expected,                                   \
                   "got " + std::to_string(actual_) + ", expected " + std::to_string(expected_));  \
    }                                                                                              \
  } while (0)

#define OK(call)                                                                                   \
  do {                                                                                             \
    orError_t error_ = (call);                                                                     \
    if (error_ != orSuccess) {                                                                     \
      test::failed(__FILE__, __LINE__, #call, test::describe(error_));                             \
    }                                                                                              \
  } while (0)

// The call fails with the code, and the thread's message has the words.
#define FAILS(call, code, words)                                                                   \
  do {                                                                                             \
    orError_t error_ = (call);                                                                     \
    if (error_ != (code)) {                                                                        \
      test::failed(__FILE__, __LINE__, #call " fails with " #code, test::describe(error_));        \
    }                                                                                              \
    if (!strstr(orGetLastErrorMessage(), words)) {                                                 \
      test::failed(__FILE__, __LINE__, #call " says \"" words "\"", orGetLastErrorMessage());      \
    }                                                                                              \
  } while (0)

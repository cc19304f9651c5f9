#pragma once

// Launches C++ callables as kernels, for the tests of the runtime layer.

#include <atomic>
#include <chrono>
#include <new>
#include <thread>
#include <utility>

#include "device/openreg.h"
#include "runtime/Exception.h"

namespace openreg_test {

// Any callable orError_t(const orLaunchContext*).
template <typename Kernel>
void launch(orStream_t stream, Kernel kernel) {
  static const orClosureType type = {
      sizeof(Kernel),
      alignof(Kernel),
      [](void* target, void* source) {
        new (target) Kernel(std::move(*static_cast<Kernel*>(source)));
        static_cast<Kernel*>(source)->~Kernel();
      },
      [](void* closure, const orLaunchContext* context) {
        return (*static_cast<Kernel*>(closure))(context);
      },
      [](void* closure) { static_cast<Kernel*>(closure)->~Kernel(); },
      nullptr};
  alignas(Kernel) unsigned char storage[sizeof(Kernel)];
  auto* closure = new (storage) Kernel(std::move(kernel));
  const orError_t error = orLaunch(stream, "test", &type, closure);
  if (error != orSuccess) {
    closure->~Kernel();
  }
  OPENREG_CHECK(error);
}

// Holds a stream until it is opened.
class Gate {
 public:
  explicit Gate(orStream_t stream) : open_(new std::atomic<bool>(false)) {
    launch(stream, [open = open_](const orLaunchContext*) {
      while (!open->load()) {
        std::this_thread::sleep_for(std::chrono::microseconds(50));
      }
      return orSuccess;
    });
    stream_ = stream;
  }
  ~Gate() {
    open();
    orStreamSynchronize(stream_);
    delete open_;
  }
  void open() {
    open_->store(true);
  }

 private:
  std::atomic<bool>* open_;
  orStream_t stream_;
};

} // namespace openreg_test

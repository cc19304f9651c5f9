// torch_openreg._C._testing: kernels for tests that show what happens while the
// device is busy, or when it fails, without sleeping, and what only C++ asks.

#include <ATen/detail/PrivateUse1HooksInterface.h>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <new>

#include "bindings/Module.h"
#include "runtime/Stream.h"

namespace torch_openreg {
namespace {

namespace device = c10::openreg;

// Launches `closure`, whose operator() returns an orError_t.
template <typename Closure>
void launch(const char* name, Closure closure) {
  static const orClosureType type = {
      .size = sizeof(Closure),
      .alignment = alignof(Closure),
      .move =
          [](void* target, void* source) {
            auto* from = static_cast<Closure*>(source);
            new (target) Closure(std::move(*from));
            from->~Closure();
          },
      .invoke =
          [](void* closure, const orLaunchContext* context) {
            return (*static_cast<Closure*>(closure))(context);
          },
      .destroy = [](void* closure) { static_cast<Closure*>(closure)->~Closure(); },
      .ranges = nullptr};
  alignas(Closure) std::byte storage[sizeof(Closure)];
  auto* moved = new (storage) Closure(std::move(closure));
  // With OPENREG_LAUNCH_BLOCKING=1 a launch waits for its kernel.
  py::gil_scoped_release no_gil;
  const orError_t error =
      orLaunch(device::current_stream_handle(device::current_device()), name, &type, storage);
  // A launch that failed to queue leaves the closure here; one that failed while
  // it ran (blocking launches) does not.
  if (error != orSuccess && error < orErrorLaunchFailure) {
    moved->~Closure();
  }
  OPENREG_CHECK(error);
}

// A kernel that runs until it is released. Not for OPENREG_LAUNCH_BLOCKING=1, with
// which its launch never returns.
class BlockingKernel {
 public:
  BlockingKernel() {
    lazy_init();
    launch("blocking_kernel", [state = state_](const orLaunchContext*) {
      std::unique_lock<std::mutex> lock(state->mutex);
      state->running = true;
      state->changed.notify_all();
      state->changed.wait(lock, [&] { return state->released; });
      return orSuccess;
    });
  }

  // Nothing may wait for ever for a kernel that nobody can release any more.
  ~BlockingKernel() {
    release();
  }

  BlockingKernel(const BlockingKernel&) = delete;
  BlockingKernel& operator=(const BlockingKernel&) = delete;

  void release() {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    state_->released = true;
    state_->changed.notify_all();
  }

  void wait_until_running() {
    py::gil_scoped_release no_gil;
    std::unique_lock<std::mutex> lock(state_->mutex);
    state_->changed.wait(lock, [&] { return state_->running; });
  }

  bool running() const {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    return state_->running;
  }

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    bool running = false;
    bool released = false;
  };
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

void failing_kernel(int code, const std::string& message) {
  lazy_init();
  launch("failing_kernel", [code, message](const orLaunchContext* context) {
    return orKernelFail(context, static_cast<orError_t>(code), message.c_str());
  });
}

int64_t device_of_pointer(uintptr_t pointer) {
  return at::detail::getPrivateUse1Hooks()
      .getDeviceFromPtr(reinterpret_cast<void*>(pointer))
      .index();
}

bool has_primary_context(int64_t index) {
  return at::detail::getPrivateUse1Hooks().hasPrimaryContext(static_cast<c10::DeviceIndex>(index));
}

} // namespace

void bind_testing(py::module_& module) {
  py::module_ testing = module.def_submodule("_testing");
  py::class_<BlockingKernel>(testing, "BlockingKernel")
      .def(py::init<>())
      .def("release", &BlockingKernel::release)
      .def("wait_until_running", &BlockingKernel::wait_until_running)
      .def_property_readonly("running", &BlockingKernel::running)
      .def("__enter__", [](py::object self) { return self; })
      .def("__exit__", [](BlockingKernel& self, const py::args&) { self.release(); });
  testing.def("failing_kernel", torch::wrap_pybind_function(&failing_kernel));
  testing.def("device_of_pointer", torch::wrap_pybind_function(&device_of_pointer));
  testing.def("has_primary_context", torch::wrap_pybind_function(&has_primary_context));
  py::enum_<orError_t>(testing, "Error", py::arithmetic())
      .value("LAUNCH_FAILURE", orErrorLaunchFailure)
      .value("LAUNCH_INDEX", orErrorLaunchIndex)
      .value("LAUNCH_VALUE", orErrorLaunchValue)
      .value("LAUNCH_TYPE", orErrorLaunchType)
      .value("LAUNCH_NOT_IMPLEMENTED", orErrorLaunchNotImplemented)
      .value("LAUNCH_OUT_OF_MEMORY", orErrorLaunchOutOfMemory)
      .value("LAUNCH_LIN_ALG", orErrorLaunchLinAlg);
}

} // namespace torch_openreg

// Memory and events shared between processes, behind torch.openreg.sharing and Event.

#include <ATen/core/TensorBase.h>
#include <torch/csrc/DynamicTypes.h>
#include <torch/csrc/Event.h>

#include <cstring>

#include "bindings/Module.h"
#include "device/openreg_ipc.h"
#include "runtime/Event.h"
#include "runtime/Functions.h"
#include "runtime/SharedMemory.h"

namespace torch_openreg {
namespace {

namespace device = c10::openreg;

int share_storage(const py::object& storage) {
  const c10::Storage shared = torch::createStorage(storage.ptr());
  py::gil_scoped_release no_gil;
  return device::share_storage(shared);
}

py::object open_shared_storage(int file, int64_t index) {
  lazy_init();
  c10::Storage storage;
  {
    py::gil_scoped_release no_gil;
    storage = device::open_shared_storage(file, static_cast<c10::DeviceIndex>(index));
  }
  return py::reinterpret_steal<py::object>(torch::createPyObject(storage));
}

c10::Event& event_of(const py::handle& event) {
  TORCH_CHECK_TYPE(THPEvent_Check(event.ptr()), "expected a torch.Event, got ",
                   Py_TYPE(event.ptr())->tp_name);
  return reinterpret_cast<THPEvent*>(event.ptr())->event;
}

// Gives a new torch.Event what `create` makes with the device as the current one.
template <typename Create>
void adopt(const py::handle& event, int64_t index, Create create) {
  lazy_init();
  device::check_device(index);
  const auto on = static_cast<c10::DeviceIndex>(index);
  c10::Event& target = event_of(event);
  orEvent_t handle = nullptr;
  const c10::DeviceIndex previous = device::exchange_device(on);
  const orError_t error = create(&handle);
  device::set_device(previous);
  OPENREG_CHECK(error);
  device::adopt_event(target, handle, on);
}

void create_shared_event(const py::handle& event, int64_t index, bool enable_timing) {
  const unsigned timing = enable_timing ? orEventDefault : orEventDisableTiming;
  const unsigned flags = timing | orEventInterprocess;
  adopt(event, index, [flags](orEvent_t* handle) { return orEventCreate(handle, flags); });
}

void open_shared_event(const py::handle& event, int64_t index, const py::bytes& handle) {
  const std::string_view bytes = handle;
  orIpcEventHandle opened{};
  TORCH_CHECK(bytes.size() == sizeof(opened.bytes), "expected a handle of ", sizeof(opened.bytes),
              " bytes, got ", bytes.size());
  std::memcpy(opened.bytes, bytes.data(), bytes.size());
  adopt(event, index, [&opened](orEvent_t* made) { return orIpcOpenEventHandle(made, &opened); });
}

py::bytes shared_event_handle(const py::handle& event) {
  orIpcEventHandle handle{};
  OPENREG_CHECK(orIpcGetEventHandle(&handle, static_cast<orEvent_t>(event_of(event).eventId())));
  return {reinterpret_cast<const char*>(handle.bytes), sizeof(handle.bytes)};
}

} // namespace

void bind_sharing(py::module_& module) {
  module.def("_share_storage", torch::wrap_pybind_function(&share_storage));
  module.def("_open_shared_storage", torch::wrap_pybind_function(&open_shared_storage));
  module.def("_create_shared_event", torch::wrap_pybind_function(&create_shared_event));
  module.def("_open_shared_event", torch::wrap_pybind_function(&open_shared_event));
  module.def("_shared_event_handle", torch::wrap_pybind_function(&shared_event_handle));
}

} // namespace torch_openreg

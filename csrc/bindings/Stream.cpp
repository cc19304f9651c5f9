// Streams and events, behind torch.openreg.Stream and Event. Streams come in as
// the three integers that torch.Stream is made of, and go out as objects of the
// Python class that the caller passes.

#include <torch/csrc/Event.h>
#include <torch/csrc/Stream.h>

#include <tuple>

#include "bindings/Module.h"
#include "runtime/Stream.h"

namespace torch_openreg {
namespace {

namespace device = c10::openreg;

// A new object of `type`, a subclass of torch.Stream, without a call into Python.
py::object wrap(const py::type& type, const device::OpenRegStream& stream) {
  auto* python_type = reinterpret_cast<PyTypeObject*>(type.ptr());
  TORCH_CHECK_TYPE(PyType_IsSubtype(python_type, THPStreamClass),
                   "expected a subclass of torch.Stream, got ", python_type->tp_name);
  auto object = py::reinterpret_steal<py::object>(python_type->tp_alloc(python_type, 0));
  if (!object) {
    throw py::error_already_set();
  }
  auto* wrapped = reinterpret_cast<THPStream*>(object.ptr());
  const c10::StreamData3 data = stream.unwrap().pack3();
  wrapped->stream_id = data.stream_id;
  wrapped->device_index = data.device_index;
  wrapped->device_type = static_cast<int64_t>(data.device_type);
  return object;
}

device::OpenRegStream unpack(int64_t id, int64_t index, int64_t type) {
  // OpenRegStream rejects other device types, whose count of devices is not ours.
  if (type == static_cast<int64_t>(at::kPrivateUse1)) {
    device::check_device(index);
  }
  return device::OpenRegStream(c10::Stream::unpack3(id, static_cast<c10::DeviceIndex>(index),
                                                    static_cast<c10::DeviceType>(type)));
}

// -1 is the current device.
c10::DeviceIndex to_index(int64_t index) {
  if (index != -1) {
    device::check_device(index);
  }
  return static_cast<c10::DeviceIndex>(index);
}

py::object current_stream(const py::type& type, int64_t index) {
  lazy_init();
  return wrap(type, device::get_current_stream(to_index(index)));
}

py::object default_stream(const py::type& type, int64_t index) {
  lazy_init();
  return wrap(type, device::get_default_stream(to_index(index)));
}

py::object pool_stream(const py::type& type, int64_t index, int priority) {
  lazy_init();
  return wrap(type, device::get_stream_from_pool(priority, to_index(index)));
}

py::object external_stream(const py::type& type, uintptr_t handle, int64_t index) {
  lazy_init();
  return wrap(type,
              device::get_external_stream(reinterpret_cast<orStream_t>(handle), to_index(index)));
}

// Makes the stream's device current as well, as torch.cuda.set_stream does.
void set_stream(int64_t id, int64_t index, int64_t type) {
  lazy_init();
  const device::OpenRegStream stream = unpack(id, index, type);
  device::exchange_device(stream.device_index());
  device::set_current_stream(stream);
}

int stream_priority(int64_t id, int64_t index, int64_t type) {
  return unpack(id, index, type).priority();
}

uintptr_t stream_handle(int64_t id, int64_t index, int64_t type) {
  return reinterpret_cast<uintptr_t>(unpack(id, index, type).handle());
}

std::tuple<int, int> priority_range() {
  int least = 0;
  int greatest = 0;
  OPENREG_CHECK(orDeviceGetStreamPriorityRange(&least, &greatest));
  return {least, greatest};
}

// torch.Event.elapsed_time takes no subclass of torch.Event.
double elapsed_time(const py::handle& start, const py::handle& end) {
  for (const py::handle& event : {start, end}) {
    TORCH_CHECK_TYPE(THPEvent_Check(event.ptr()), "expected a torch.Event, got ",
                     Py_TYPE(event.ptr())->tp_name);
  }
  return reinterpret_cast<THPEvent*>(start.ptr())
      ->event.elapsedTime(reinterpret_cast<THPEvent*>(end.ptr())->event);
}

uintptr_t raw_current_stream(int64_t index) {
  device::check_device(index);
  return reinterpret_cast<uintptr_t>(
      device::current_stream_handle(static_cast<c10::DeviceIndex>(index)));
}

} // namespace

void bind_stream(py::module_& module) {
  using torch::wrap_pybind_function;
  module.def("_get_current_stream", wrap_pybind_function(&current_stream));
  module.def("_get_default_stream", wrap_pybind_function(&default_stream));
  module.def("_get_stream_from_pool", wrap_pybind_function(&pool_stream));
  module.def("_get_stream_from_external", wrap_pybind_function(&external_stream));
  module.def("_set_stream", wrap_pybind_function(&set_stream));
  module.def("_get_stream_priority", wrap_pybind_function(&stream_priority));
  module.def("_get_stream_handle", wrap_pybind_function(&stream_handle));
  module.def("_get_stream_priority_range", wrap_pybind_function(&priority_range));
  module.def("_elapsed_time", wrap_pybind_function(&elapsed_time));
  module.def("_get_raw_stream", wrap_pybind_function(&raw_current_stream));
}

} // namespace torch_openreg

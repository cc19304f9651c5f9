// Streams and events, behind torch.openreg.Stream and Event. Streams cross as
// the three integers that torch.Stream is made of.

#include <torch/csrc/Event.h>

#include <tuple>

#include "bindings/Module.h"
#include "runtime/Stream.h"

namespace torch_openreg {
namespace {

namespace device = c10::openreg;

using StreamTriple = std::tuple<int64_t, int64_t, int64_t>;

StreamTriple pack(const device::OpenRegStream& stream) {
  const c10::StreamData3 data = stream.unwrap().pack3();
  return {
      data.stream_id, data.device_index, static_cast<int64_t>(data.device_type)};
}

device::OpenRegStream unpack(int64_t id, int64_t index, int64_t type) {
  // OpenRegStream rejects other device types, whose count of devices is not ours.
  if (type == static_cast<int64_t>(at::kPrivateUse1)) {
    device::check_device(index);
  }
  return device::OpenRegStream(c10::Stream::unpack3(
      id,
      static_cast<c10::DeviceIndex>(index),
      static_cast<c10::DeviceType>(type)));
}

c10::DeviceIndex to_index(int64_t index) {
  device::check_device(index);
  return static_cast<c10::DeviceIndex>(index);
}

StreamTriple current_stream(int64_t index) {
  lazy_init();
  return pack(device::get_current_stream(to_index(index)));
}

StreamTriple default_stream(int64_t index) {
  lazy_init();
  return pack(device::get_default_stream(to_index(index)));
}

StreamTriple external_stream(uintptr_t handle, int64_t index) {
  lazy_init();
  return pack(device::get_external_stream(
      reinterpret_cast<orStream_t>(handle), to_index(index)));
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
    TORCH_CHECK_TYPE(
        THPEvent_Check(event.ptr()),
        "expected a torch.Event, got ",
        Py_TYPE(event.ptr())->tp_name);
  }
  return reinterpret_cast<THPEvent*>(start.ptr())
      ->event.elapsedTime(reinterpret_cast<THPEvent*>(end.ptr())->event);
}

uintptr_t raw_current_stream(int64_t index) {
  return reinterpret_cast<uintptr_t>(
      device::current_stream_handle(to_index(index)));
}

} // namespace

void bind_stream(py::module_& module) {
  using torch::wrap_pybind_function;
  module.def("_get_current_stream", wrap_pybind_function(&current_stream));
  module.def("_get_default_stream", wrap_pybind_function(&default_stream));
  module.def("_get_stream_from_external", wrap_pybind_function(&external_stream));
  module.def("_set_stream", wrap_pybind_function(&set_stream));
  module.def("_get_stream_priority", wrap_pybind_function(&stream_priority));
  module.def("_get_stream_handle", wrap_pybind_function(&stream_handle));
  module.def("_get_stream_priority_range", wrap_pybind_function(&priority_range));
  module.def("_elapsed_time", wrap_pybind_function(&elapsed_time));
  module.def("_get_raw_stream", wrap_pybind_function(&raw_current_stream));
}

} // namespace torch_openreg

// Devices and initialisation, behind torch.openreg.device and its like.

#include <ATen/detail/PrivateUse1HooksInterface.h>

#include <cstdio>

#include "bindings/Module.h"
#include "runtime/Functions.h"

namespace torch_openreg {
namespace {

namespace device = c10::openreg;

// Converts a Python int, however large, to a device index.
c10::DeviceIndex to_index(int64_t index) {
  device::check_device(index);
  return static_cast<c10::DeviceIndex>(index);
}

void initialize() {
  torch::utils::register_fork_handler_for_device_init(at::kPrivateUse1);
  pybind11::gil_scoped_release no_gil;
  at::detail::getPrivateUse1Hooks().init();
}

// The device library notices also what PyTorch's own flag misses: a parent that
// used the device from C++ only.
bool is_in_bad_fork() {
  int count = 0;
  const orError_t error = orGetDeviceCount(&count);
  if (error != orSuccess) {
    orGetLastError();
  }
  return error == orErrorForked || torch::utils::is_device_in_bad_fork(at::kPrivateUse1);
}

int64_t current_device() {
  lazy_init();
  return device::current_device();
}

void set_device(int64_t index) {
  lazy_init();
  device::set_device(to_index(index));
}

// -1 means no change, here and in maybe_exchange_device, as torch.cuda's do.
int64_t exchange_device(int64_t index) {
  if (index < 0) {
    return -1;
  }
  lazy_init();
  return device::exchange_device(to_index(index));
}

void synchronize(int64_t index) {
  lazy_init();
  const c10::DeviceIndex target = to_index(index);
  pybind11::gil_scoped_release no_gil;
  device::device_synchronize(target);
}

orDeviceProp get_properties(int64_t index) {
  orDeviceProp properties{};
  OPENREG_CHECK(orGetDeviceProperties(&properties, to_index(index)));
  return properties;
}

bool can_access_peer(int64_t index, int64_t peer) {
  int can = 0;
  OPENREG_CHECK(orDeviceCanAccessPeer(&can, to_index(index), to_index(peer)));
  return can != 0;
}

std::string uuid_string(const orDeviceProp& properties) {
  std::string text;
  for (size_t i = 0; i < sizeof(properties.uuid); ++i) {
    char hex[3];
    std::snprintf(hex, sizeof(hex), "%02x", properties.uuid[i]);
    if (i == 4 || i == 6 || i == 8 || i == 10) {
      text += '-';
    }
    text += hex;
  }
  return text;
}

std::string properties_repr(const orDeviceProp& properties) {
  return c10::str("_OpenRegDeviceProperties(name='", properties.name, "', major=", properties.major,
                  ", minor=", properties.minor,
                  ", total_memory=", properties.total_memory / (1024 * 1024),
                  "MB, multi_processor_count=", properties.multi_processor_count,
                  ", uuid=", uuid_string(properties),
                  ", L2_cache_size=", properties.l2_cache_size / (1024 * 1024), "MB)");
}

} // namespace

void bind_device(py::module_& module) {
  using torch::wrap_pybind_function;

  py::class_<orDeviceProp>(module, "_OpenRegDeviceProperties")
      .def_property_readonly(
          "name", [](const orDeviceProp& properties) { return std::string(properties.name); })
      .def_readonly("total_memory", &orDeviceProp::total_memory)
      .def_readonly("major", &orDeviceProp::major)
      .def_readonly("minor", &orDeviceProp::minor)
      .def_readonly("multi_processor_count", &orDeviceProp::multi_processor_count)
      .def_readonly("max_threads_per_block", &orDeviceProp::max_threads_per_block)
      .def_readonly("warp_size", &orDeviceProp::warp_size)
      .def_readonly("L2_cache_size", &orDeviceProp::l2_cache_size)
      .def_property_readonly("uuid", &uuid_string)
      .def("__repr__", &properties_repr);

  module.def("_init", wrap_pybind_function(&initialize));
  module.def("_is_in_bad_fork", wrap_pybind_function(&is_in_bad_fork));
  module.def("_get_device_count", [] { return static_cast<int>(device::device_count()); });
  module.def("_get_device", wrap_pybind_function(&current_device));
  module.def("_set_device", wrap_pybind_function(&set_device));
  module.def("_exchange_device", wrap_pybind_function(&exchange_device));
  module.def("_synchronize", wrap_pybind_function(&synchronize));
  module.def("_get_device_properties", wrap_pybind_function(&get_properties));
  module.def("_can_access_peer", wrap_pybind_function(&can_access_peer));
}

} // namespace torch_openreg

// Memory shared between processes, behind torch.openreg.sharing.

#include <ATen/core/TensorBase.h>
#include <torch/csrc/DynamicTypes.h>

#include "bindings/Module.h"
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

} // namespace

void bind_sharing(py::module_& module) {
  module.def("_share_storage", torch::wrap_pybind_function(&share_storage));
  module.def("_open_shared_storage", torch::wrap_pybind_function(&open_shared_storage));
}

} // namespace torch_openreg

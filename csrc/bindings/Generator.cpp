// Random number generators, behind torch.openreg.random.

#include <torch/csrc/Generator.h>

#include "bindings/Module.h"
#include "runtime/Functions.h"
#include "runtime/Generator.h"

namespace torch_openreg {
namespace {

// The torch.Generator of a device, the same object each time.
py::object default_generator(int64_t index) {
  c10::openreg::check_device(index);
  return py::reinterpret_steal<py::object>(
      THPGenerator_Wrap(at::openreg::default_generator(static_cast<c10::DeviceIndex>(index))));
}

} // namespace

void bind_generator(py::module_& module) {
  module.def("_get_default_generator", torch::wrap_pybind_function(&default_generator));
}

} // namespace torch_openreg

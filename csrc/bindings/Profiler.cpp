// Ranges in profiles, behind torch.openreg.profiler.

#include "bindings/Module.h"
#include "runtime/ProfilerRanges.h"

namespace torch_openreg {

void bind_profiler(py::module_& module) {
  using torch::wrap_pybind_function;
  namespace device = c10::openreg;

  module.def("_range_push", wrap_pybind_function(&device::range_push));
  module.def("_range_pop", wrap_pybind_function(&device::range_pop));
  module.def("_range_start", wrap_pybind_function(&device::range_start));
  module.def("_range_end", wrap_pybind_function(&device::range_end));
  module.def("_range_mark", wrap_pybind_function(&device::range_mark));
}

} // namespace torch_openreg

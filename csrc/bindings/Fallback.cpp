// Which operators took the fallback, behind torch.openreg.fallback_counts.

#include "aten/FallbackLog.h"
#include "bindings/Module.h"

namespace torch_openreg {

void bind_fallback(py::module_& module) {
  using torch::wrap_pybind_function;
  module.def("_fallback_counts", wrap_pybind_function([] {
               py::dict counts;
               for (const auto& [name, count] : at::openreg::fallback_counts()) {
                 counts[py::str(name)] = count;
               }
               return counts;
             }));
  module.def("_reset_fallback_counts", wrap_pybind_function(&at::openreg::reset_fallback_counts));
  module.def("_set_fallback_mode", wrap_pybind_function(&at::openreg::set_fallback_mode));
  module.def("_get_fallback_mode", wrap_pybind_function(&at::openreg::get_fallback_mode));
}

} // namespace torch_openreg

// torch_openreg._C: what the Python package calls of the C++ side. Importing it
// loads libtorch_openreg.so, whose static registrations make the backend known
// to PyTorch.

#include "bindings/Module.h"

PYBIND11_MODULE(_C, module) {
  module.doc() = "Bindings of torch_openreg; use torch.openreg instead.";
  torch_openreg::bind_device(module);
  torch_openreg::bind_stream(module);
  torch_openreg::bind_memory(module);
  torch_openreg::bind_memory_snapshot(module);
  torch_openreg::bind_profiler(module);
  torch_openreg::bind_sharing(module);
  torch_openreg::bind_generated_kernel(module);
  torch_openreg::bind_generator(module);
  torch_openreg::bind_graph(module);
  torch_openreg::bind_fallback(module);
  torch_openreg::bind_testing(module);
  torch_openreg::bind_watchdog(module);
}

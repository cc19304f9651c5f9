#pragma once

// The parts of torch_openreg._C, one file each: they convert arguments and
// results, and nothing else. Functions that may wait release the GIL.

#include <torch/csrc/Exceptions.h>
#include <torch/csrc/utils/device_lazy_init.h>
#include <torch/csrc/utils/pybind.h>

namespace torch_openreg {

void bind_device(py::module_& module);
void bind_stream(py::module_& module);
void bind_memory(py::module_& module);
void bind_memory_snapshot(py::module_& module);
void bind_profiler(py::module_& module);
void bind_sharing(py::module_& module);
void bind_generated_kernel(py::module_& module);
void bind_generator(py::module_& module);
void bind_graph(py::module_& module);
void bind_fallback(py::module_& module);
void bind_testing(py::module_& module);
void bind_watchdog(py::module_& module);

// Runs torch.openreg._lazy_init once. Needs the GIL, and so goes before any
// release of it.
inline void lazy_init() {
  torch::utils::device_lazy_init(at::kPrivateUse1);
}

} // namespace torch_openreg

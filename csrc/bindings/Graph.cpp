// Graphs, behind torch.openreg.Graph. (torch.accelerator.Graph needs nothing
// here: it finds the implementation by the device's name.)

#include "runtime/Graph.h"

#include <vector>

#include "bindings/Module.h"
#include "runtime/CachingAllocator.h"
#include "runtime/Capture.h"

namespace torch_openreg {
namespace {

namespace device = c10::openreg;
using at::openreg::OpenRegGraph;

at::GraphCaptureMode to_mode(const std::string& mode) {
  if (mode == "default") {
    return at::GraphCaptureMode::Default;
  }
  if (mode == "global") {
    return at::GraphCaptureMode::Global;
  }
  if (mode == "thread_local") {
    return at::GraphCaptureMode::ThreadLocal;
  }
  TORCH_CHECK_VALUE(
      mode == "relaxed",
      "capture_error_mode must be \"global\", \"thread_local\" or \"relaxed\", got \"", mode, "\"");
  return at::GraphCaptureMode::Relaxed;
}

const char* node_type(unsigned kind) {
  switch (kind) {
    case orTraceKernel:
      return "kernel";
    case orTraceMemcpy:
      return "memcpy";
    case orTraceMemset:
      return "memset";
    case orTraceHostFunc:
      return "host";
    case orTraceGraph:
      return "child_graph";
    default:
      return "empty";
  }
}

// As torch.cuda.CUDAGraph.get_graph_data describes nodes.
py::list graph_nodes(const OpenRegGraph& graph) {
  orGraph_t raw = graph.raw_graph();
  size_t count = 0;
  OPENREG_CHECK(orGraphGetNodes(raw, nullptr, 0, &count));
  std::vector<orGraphNode> nodes(count);
  OPENREG_CHECK(orGraphGetNodes(raw, nodes.data(), count, &count));
  std::vector<std::vector<size_t>> dependents(count);
  for (size_t i = 0; i < count; ++i) {
    for (size_t j = 0; j < nodes[i].depends_count; ++j) {
      dependents[nodes[i].depends[j]].push_back(i);
    }
  }
  py::list list;
  for (size_t i = 0; i < count; ++i) {
    py::dict node;
    node["index"] = i;
    node["node_type"] = node_type(nodes[i].kind);
    node["kernel_name"] = nodes[i].name;
    node["stream"] = nodes[i].stream;
    node["dependencies"] =
        std::vector<size_t>(nodes[i].depends, nodes[i].depends + nodes[i].depends_count);
    node["dependents"] = dependents[i];
    list.append(node);
  }
  return list;
}

bool is_current_stream_capturing() {
  const c10::DeviceIndex current = device::current_device();
  return device::device_count() > 0 && device::has_context(current) &&
         device::is_capturing(device::current_stream_handle(current));
}

} // namespace

void bind_graph(py::module_& module) {
  using torch::wrap_pybind_function;
  using torch::wrap_pybind_function_no_gil;
  module.def("_graph_pool_handle", wrap_pybind_function([] {
               lazy_init();
               return device::CachingAllocator::new_pool_id(/*is_users=*/true);
             }));
  module.def("_is_current_stream_capturing", wrap_pybind_function(&is_current_stream_capturing));

  py::class_<OpenRegGraph>(module, "_Graph")
      .def(py::init([](bool keep_graph) {
             lazy_init();
             return std::make_unique<OpenRegGraph>(at::GraphImplArgs{.keep_graph = keep_graph});
           }),
           py::arg("keep_graph") = false)
      .def("capture_begin",
           wrap_pybind_function_no_gil([](OpenRegGraph& self, std::optional<c10::MempoolId_t> pool,
                                          const std::string& capture_error_mode) {
             self.capture_begin(pool.value_or(c10::MempoolId_t{0, 0}), to_mode(capture_error_mode));
           }),
           py::arg("pool") = py::none(), py::arg("capture_error_mode") = "global")
      .def("capture_end", wrap_pybind_function_no_gil(&OpenRegGraph::capture_end))
      .def("instantiate", wrap_pybind_function_no_gil(&OpenRegGraph::instantiate))
      .def("replay", wrap_pybind_function_no_gil(&OpenRegGraph::replay))
      .def("reset", wrap_pybind_function_no_gil(&OpenRegGraph::reset))
      .def("pool", wrap_pybind_function(&OpenRegGraph::pool))
      .def("enable_debug_mode", wrap_pybind_function(&OpenRegGraph::enable_debug_mode))
      .def("debug_dump", wrap_pybind_function_no_gil(&OpenRegGraph::debug_dump),
           py::arg("debug_path"))
      .def("_nodes", wrap_pybind_function(&graph_nodes));
}

} // namespace torch_openreg

// What the allocator holds and did, in the form that PyTorch's memory viewer
// reads (torch.cuda._memory_viz and pytorch.org/memory_viz).

#include <c10/core/AllocatorConfig.h>
#include <torch/csrc/profiler/combined_traceback.h>

#include <unordered_map>

#include "bindings/Module.h"
#include "runtime/CachingAllocator.h"
#include "runtime/MemoryHistory.h"

// Of torch/csrc/profiler/python/combined_traceback.h, which includes a header that
// torch does not ship.
namespace torch {
TORCH_API std::vector<py::object> py_symbolize(std::vector<CapturedTraceback*>& to_symbolize);
TORCH_PYTHON_API void installCapturedTracebackPython();
} // namespace torch

namespace torch_openreg {
namespace {

namespace device = c10::openreg;
namespace CachingAllocator = c10::openreg::CachingAllocator;

using device::Context;
using device::RecordContext;
using device::TraceEntry;

constexpr bool kPython = true;
constexpr bool kScript = true;

Context gather_python() {
  return torch::CapturedTraceback::gather(kPython, kScript, /*cpp=*/false);
}

Context gather_all() {
  return torch::CapturedTraceback::gather(kPython, kScript, /*cpp=*/true);
}

const char* action_name(TraceEntry::Action action) {
  switch (action) {
    case TraceEntry::ALLOC:
      return "alloc";
    case TraceEntry::FREE_REQUESTED:
      return "free_requested";
    case TraceEntry::FREE_COMPLETED:
      return "free_completed";
    case TraceEntry::SEGMENT_ALLOC:
      return "segment_alloc";
    case TraceEntry::SEGMENT_FREE:
      return "segment_free";
    case TraceEntry::SEGMENT_MAP:
      return "segment_map";
    case TraceEntry::SEGMENT_UNMAP:
      return "segment_unmap";
    case TraceEntry::SNAPSHOT:
      return "snapshot";
    case TraceEntry::OOM:
      return "oom";
  }
  return "unknown";
}

// Stacks are looked up together at the end, each once.
class Frames {
 public:
  // Sets entry["frames"] when `resolve` is called.
  void add(const py::dict& entry, const Context& context) {
    if (context == nullptr) {
      entry["frames"] = py::list();
      return;
    }
    stacks_.push_back(torch::getCapturedTracebackFromContext(context));
    entries_.push_back(entry);
    keep_.push_back(context);
  }

  void resolve() {
    const std::vector<py::object> frames = torch::py_symbolize(stacks_);
    for (size_t i = 0; i < entries_.size(); ++i) {
      entries_[i]["frames"] = frames.at(i);
    }
  }

 private:
  std::vector<torch::CapturedTraceback*> stacks_;
  std::vector<py::dict> entries_;
  std::vector<Context> keep_;
};

py::tuple pool_tuple(c10::MempoolId_t id) {
  return py::make_tuple(id.first, id.second);
}

py::dict segment_dict(const c10::CachingDeviceAllocator::SegmentInfo& segment, Frames& frames) {
  py::dict entry;
  entry["device"] = static_cast<int>(segment.device);
  entry["address"] = segment.address;
  entry["total_size"] = segment.total_size;
  entry["allocated_size"] = segment.allocated_size;
  entry["active_size"] = segment.active_size;
  entry["requested_size"] = segment.requested_size;
  entry["stream"] = reinterpret_cast<uintptr_t>(segment.stream);
  entry["segment_type"] = segment.is_large ? "large" : "small";
  entry["segment_pool_id"] = pool_tuple(segment.owner_private_pool_id);
  entry["is_expandable"] = segment.is_expandable;
  frames.add(entry, segment.context_when_allocated);
  py::list blocks;
  size_t address = segment.address;
  for (const auto& block : segment.blocks) {
    py::dict item;
    item["address"] = address;
    item["size"] = block.size;
    item["requested_size"] = block.requested_size;
    item["state"] = block.allocated ? "active_allocated"
                    : block.active  ? "active_pending_free"
                                    : "inactive";
    frames.add(item, block.context_when_allocated);
    blocks.append(item);
    address += block.size;
  }
  entry["blocks"] = blocks;
  return entry;
}

py::dict trace_dict(const TraceEntry& entry, Frames& frames) {
  py::dict dict;
  dict["action"] = action_name(entry.action_);
  dict[entry.action_ == TraceEntry::OOM ? "device_free" : "addr"] = entry.addr_;
  dict["size"] = entry.size_;
  dict["stream"] = reinterpret_cast<uintptr_t>(entry.stream_);
  dict["pool_id"] = pool_tuple(entry.mempool_);
  dict["time_us"] = entry.time_.t_ / 1000;
  dict["compile_context"] = entry.compile_context_;
  dict["user_metadata"] = entry.user_metadata_;
  frames.add(dict, entry.context_);
  return dict;
}

py::dict settings_dict() {
  using Config = c10::CachingAllocator::AcceleratorAllocatorConfig;
  py::dict dict;
  dict["PYTORCH_ALLOC_CONF"] = Config::last_allocator_settings();
  const size_t max_split_size = Config::max_split_size();
  dict["max_split_size"] = max_split_size == std::numeric_limits<size_t>::max()
                               ? int64_t{-1}
                               : static_cast<int64_t>(max_split_size);
  dict["garbage_collection_threshold"] = Config::garbage_collection_threshold();
  dict["expandable_segments"] = false;
  dict["large_segment_size"] = Config::large_segment_size();
  dict["pinned_use_background_threads"] = Config::pinned_use_background_threads();
  py::dict divisions;
  const std::vector<size_t>& by_size = Config::roundup_power2_divisions();
  for (size_t i = 0; i < by_size.size(); ++i) {
    divisions[py::str(std::to_string(size_t{1} << i))] = by_size[i];
  }
  dict["roundup_power2_divisions"] = divisions;
  return dict;
}

// Of all devices; of one private pool if an id is given.
py::dict memory_snapshot(std::optional<c10::MempoolId_t> pool, bool include_traces) {
  const auto segments = [] {
    py::gil_scoped_release no_gil;
    return CachingAllocator::snapshot();
  }();
  const auto traces = [&] {
    py::gil_scoped_release no_gil;
    return include_traces ? CachingAllocator::memory_traces()
                          : std::vector<std::vector<TraceEntry>>();
  }();

  Frames frames;
  py::list segment_list;
  for (const auto& segment : segments) {
    if (!pool || *pool == segment.owner_private_pool_id) {
      segment_list.append(segment_dict(segment, frames));
    }
  }
  py::list device_traces;
  for (const auto& trace : traces) {
    py::list entries;
    for (const TraceEntry& entry : trace) {
      if (!pool || *pool == entry.mempool_) {
        entries.append(trace_dict(entry, frames));
      }
    }
    device_traces.append(entries);
  }
  py::list annotations;
  for (const auto& annotation : device::memory_annotations()) {
    py::dict entry;
    entry["device"] = static_cast<int>(annotation.device_);
    entry["time_us"] = annotation.time_.t_ / 1000;
    for (const auto& [name, value] : annotation.metadata_) {
      entry[py::str(name)] = value;
    }
    annotations.append(entry);
  }
  frames.resolve();

  py::dict snapshot;
  snapshot["segments"] = segment_list;
  snapshot["device_traces"] = device_traces;
  snapshot["allocator_settings"] = settings_dict();
  snapshot["external_annotations"] = annotations;
  return snapshot;
}

void record_memory_history(const std::optional<std::string>& enabled,
                           const std::optional<std::string>& context,
                           const std::string& stacks,
                           size_t max_entries,
                           bool clear_history,
                           bool annotations,
                           const std::vector<std::string>& skip_actions) {
  device::MemoryHistoryOptions options;
  if (enabled) {
    TORCH_CHECK_VALUE(*enabled == "state" || *enabled == "all",
                      "enabled must be None, 'state' or 'all', but got '", *enabled, "'");
    options.keeps_trace = *enabled == "all";
    if (context) {
      static const std::unordered_map<std::string, RecordContext> levels = {
          {"state", RecordContext::STATE},
          {"alloc", RecordContext::ALLOC},
          {"all", RecordContext::ALL}};
      const auto level = levels.find(*context);
      TORCH_CHECK_VALUE(level != levels.end(),
                        "context must be None, 'state', 'alloc' or 'all', but got '", *context,
                        "'");
      options.context = level->second;
    }
    options.keeps_annotations = annotations;
  }
  TORCH_CHECK_VALUE(stacks == "python" || stacks == "all",
                    "stacks must be 'python' or 'all', but got '", stacks, "'");
  options.gather = stacks == "all" ? &gather_all : &gather_python;
  options.max_entries = max_entries;
  for (const std::string& action : skip_actions) {
    options.skipped_actions.push_back(c10::CachingDeviceAllocator::parseTraceEntryAction(action));
  }
  torch::installCapturedTracebackPython();
  py::gil_scoped_release no_gil;
  device::record_memory_history(options, clear_history);
}

std::optional<py::object> allocation_traceback(uintptr_t address) {
  const Context context = [&] {
    py::gil_scoped_release no_gil;
    return CachingAllocator::allocation_context(reinterpret_cast<void*>(address));
  }();
  if (context == nullptr) {
    return std::nullopt;
  }
  std::vector<torch::CapturedTraceback*> stacks = {torch::getCapturedTracebackFromContext(context)};
  return torch::py_symbolize(stacks).at(0);
}

} // namespace

void bind_memory_snapshot(py::module_& module) {
  using torch::wrap_pybind_function;

  module.def("_memory_snapshot", wrap_pybind_function(&memory_snapshot));
  module.def("_record_memory_history", wrap_pybind_function(&record_memory_history));
  module.def("_allocation_traceback", wrap_pybind_function(&allocation_traceback));
  module.def("_set_memory_metadata", wrap_pybind_function(&device::set_memory_metadata));
  module.def("_get_memory_metadata",
             wrap_pybind_function([] { return device::memory_metadata(); }));
}

} // namespace torch_openreg

// Memory of the device and pinned memory, behind torch.openreg.memory.

#include <ATen/core/CachingHostAllocator.h>
#include <ATen/ops/from_blob.h>

#include <mutex>
#include <thread>
#include <unordered_map>

#include "bindings/Module.h"
#include "runtime/CachingAllocator.h"
#include "runtime/OutOfMemory.h"

namespace torch_openreg {
namespace {

namespace device = c10::openreg;
namespace CachingAllocator = c10::openreg::CachingAllocator;

c10::DeviceIndex to_index(int64_t index) {
  device::check_device(index);
  return static_cast<c10::DeviceIndex>(index);
}

py::dict stat_dict(const c10::CachingAllocator::Stat& stat) {
  py::dict dict;
  dict["current"] = stat.current;
  dict["peak"] = stat.peak;
  dict["allocated"] = stat.allocated;
  dict["freed"] = stat.freed;
  return dict;
}

py::dict stat_array_dict(const c10::CachingAllocator::StatArray& stats) {
  static constexpr std::array<const char*, 3> names = {"all", "small_pool", "large_pool"};
  static_assert(names.size() == static_cast<size_t>(c10::CachingAllocator::StatType::NUM_TYPES));
  py::dict dict;
  for (size_t i = 0; i < names.size(); ++i) {
    dict[names[i]] = stat_dict(stats[i]);
  }
  return dict;
}

py::dict duration_dict(const c10::CachingAllocator::DurationStat& stat) {
  py::dict dict;
  dict["total"] = stat.total;
  dict["max"] = stat.max;
  dict["min"] = stat.min;
  dict["count"] = stat.count;
  dict["avg"] = stat.count == 0 ? 0 : stat.total / stat.count;
  return dict;
}

py::dict memory_stats(int64_t index) {
  const c10::DeviceIndex target = to_index(index);
  const auto stats = [&] {
    py::gil_scoped_release no_gil;
    return CachingAllocator::get()->getDeviceStats(target);
  }();
  py::dict dict;
  dict["num_alloc_retries"] = stats.num_alloc_retries;
  dict["num_ooms"] = stats.num_ooms;
  dict["num_sync_all_streams"] = stats.num_sync_all_streams;
  dict["num_device_alloc"] = stats.num_device_alloc;
  dict["num_device_free"] = stats.num_device_free;
  dict["max_split_size"] = stats.max_split_size;
  dict["allocation"] = stat_array_dict(stats.allocation);
  dict["segment"] = stat_array_dict(stats.segment);
  dict["active"] = stat_array_dict(stats.active);
  dict["inactive_split"] = stat_array_dict(stats.inactive_split);
  dict["allocated_bytes"] = stat_array_dict(stats.allocated_bytes);
  dict["reserved_bytes"] = stat_array_dict(stats.reserved_bytes);
  dict["active_bytes"] = stat_array_dict(stats.active_bytes);
  dict["inactive_split_bytes"] = stat_array_dict(stats.inactive_split_bytes);
  dict["requested_bytes"] = stat_array_dict(stats.requested_bytes);
  dict["oversize_allocations"] = stat_dict(stats.oversize_allocations);
  dict["oversize_segments"] = stat_dict(stats.oversize_segments);
  return dict;
}

// Memory given out by _caching_allocator_alloc, whose callers keep only the
// address.
class RawAllocations {
 public:
  uintptr_t allocate(size_t nbytes, int64_t index, uintptr_t stream) {
    const c10::DeviceIndex target = to_index(index);
    auto* handle = reinterpret_cast<orStream_t>(stream);
    if (handle == nullptr) {
      handle = device::get_default_stream(target).handle();
    }
    at::DataPtr memory =
        CachingAllocator::allocate(nbytes, target, handle, CachingAllocator::Order::Issue);
    const auto address = reinterpret_cast<uintptr_t>(memory.get());
    if (address != 0) {
      const std::lock_guard<std::mutex> lock(mutex_);
      memory_.emplace(address, std::move(memory));
    }
    return address;
  }

  void free(uintptr_t address) {
    if (address == 0) {
      return;
    }
    at::DataPtr memory;
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = memory_.find(address);
    TORCH_CHECK_VALUE(found != memory_.end(), "caching_allocator_delete: no memory at address ",
                      address, " came from caching_allocator_alloc");
    memory = std::move(found->second);
    memory_.erase(found);
  }

 private:
  std::mutex mutex_;
  std::unordered_map<uintptr_t, at::DataPtr> memory_;
};

RawAllocations& raw_allocations() {
  static auto* allocations = new RawAllocations();
  return *allocations;
}

// The observer lives as long as the process.
void attach_out_of_memory_observer(py::function observer) {
  auto* callable = new py::function(std::move(observer));
  device::attach_out_of_memory_observer([callable](const device::OutOfMemory& what) {
    // A kernel's worker has no Python state, and must not wait for the GIL.
    if (PyGILState_GetThisThreadState() == nullptr) {
      return;
    }
    py::gil_scoped_acquire gil;
    try {
      (*callable)(static_cast<int>(what.device), what.tried, what.allocated, what.free);
    } catch (py::error_already_set& error) {
      error.discard_as_unraisable("out-of-memory observer");
    }
  });
}

// Only the calling thread's allocations go to the pool.
void begin_allocate_to_pool(int64_t index, c10::MempoolId_t pool) {
  CachingAllocator::begin_allocate_to_pool(to_index(index), pool,
                                           [thread = std::this_thread::get_id()](orStream_t) {
                                             return std::this_thread::get_id() == thread;
                                           });
}

py::dict host_memory_stats() {
  const auto stats = [] {
    py::gil_scoped_release no_gil;
    return at::getHostAllocator(at::kPrivateUse1)->get_stats();
  }();
  py::dict dict;
  dict["num_host_alloc"] = stats.num_host_alloc;
  dict["num_host_free"] = stats.num_host_free;
  dict["allocations"] = stat_dict(stats.allocations);
  dict["allocated_bytes"] = stat_dict(stats.allocated_bytes);
  dict["active_requests"] = stat_dict(stats.active_requests);
  dict["active_bytes"] = stat_dict(stats.active_bytes);
  dict["host_alloc_time"] = duration_dict(stats.host_alloc_time);
  dict["host_free_time"] = duration_dict(stats.host_free_time);
  return dict;
}

} // namespace

void bind_memory(py::module_& module) {
  using torch::wrap_pybind_function;
  using torch::wrap_pybind_function_no_gil;

  module.def("_memory_stats", wrap_pybind_function(&memory_stats));
  module.def("_host_memory_stats", wrap_pybind_function(&host_memory_stats));

  module.def("_reset_peak_memory_stats", wrap_pybind_function([](int64_t index) {
               CachingAllocator::get()->resetPeakStats(to_index(index));
             }));
  module.def("_reset_accumulated_memory_stats", wrap_pybind_function([](int64_t index) {
               CachingAllocator::get()->resetAccumulatedStats(to_index(index));
             }));
  module.def("_reset_peak_host_memory_stats", wrap_pybind_function([] {
               at::getHostAllocator(at::kPrivateUse1)->reset_peak_stats();
             }));
  module.def("_reset_accumulated_host_memory_stats", wrap_pybind_function([] {
               at::getHostAllocator(at::kPrivateUse1)->reset_accumulated_stats();
             }));

  module.def("_empty_cache",
             wrap_pybind_function_no_gil([] { CachingAllocator::get()->emptyCache(); }));
  module.def("_mem_get_info", wrap_pybind_function_no_gil([](int64_t index) {
               return CachingAllocator::get()->getMemoryInfo(to_index(index));
             }));
  module.def("_set_memory_fraction",
             wrap_pybind_function_no_gil([](double fraction, int64_t index) {
               CachingAllocator::set_memory_fraction(fraction, to_index(index));
             }));
  module.def("_get_memory_fraction", wrap_pybind_function_no_gil([](int64_t index) {
               return CachingAllocator::get_memory_fraction(to_index(index));
             }));

  module.def("_attach_out_of_memory_observer",
             wrap_pybind_function(&attach_out_of_memory_observer));
  module.def("_caching_allocator_enable",
             wrap_pybind_function_no_gil(&CachingAllocator::set_caching));
  module.def("_caching_allocator_is_enabled", wrap_pybind_function(&CachingAllocator::is_caching));

  module.def("_new_pool_id",
             wrap_pybind_function([] { return CachingAllocator::new_pool_id(true); }));
  module.def("_retain_pool", wrap_pybind_function_no_gil([](int64_t index, c10::MempoolId_t pool) {
               CachingAllocator::retain_pool(to_index(index), pool);
             }));
  module.def("_release_pool", wrap_pybind_function_no_gil([](int64_t index, c10::MempoolId_t pool) {
               CachingAllocator::release_pool(to_index(index), pool);
             }));
  module.def("_pool_use_count",
             wrap_pybind_function_no_gil([](int64_t index, c10::MempoolId_t pool) {
               return CachingAllocator::pool_use_count(to_index(index), pool);
             }));
  module.def("_empty_pool", wrap_pybind_function_no_gil([](c10::MempoolId_t pool) {
               CachingAllocator::get()->emptyCache(pool);
             }));
  module.def("_begin_allocate_to_pool", wrap_pybind_function_no_gil(&begin_allocate_to_pool));
  module.def("_end_allocate_to_pool",
             wrap_pybind_function_no_gil([](int64_t index, c10::MempoolId_t pool) {
               CachingAllocator::end_allocate_to_pool(to_index(index), pool);
             }));

  // The same memory, which the result does not keep.
  module.def("_weak_alias", wrap_pybind_function([](const at::Tensor& tensor) {
               return at::for_blob(tensor.mutable_data_ptr(), tensor.sizes())
                   .strides(tensor.strides())
                   .target_device(tensor.device())
                   .options(tensor.options())
                   .make_tensor();
             }));
  module.def("_caching_allocator_alloc",
             wrap_pybind_function_no_gil([](size_t nbytes, int64_t index, uintptr_t stream) {
               return raw_allocations().allocate(nbytes, index, stream);
             }));
  module.def("_caching_allocator_delete", wrap_pybind_function_no_gil([](uintptr_t address) {
               raw_allocations().free(address);
             }));
}

} // namespace torch_openreg

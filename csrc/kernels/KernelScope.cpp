#include "kernels/KernelScope.h"

#include <ATen/Parallel.h>
#include <ATen/record_function.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <dlfcn.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <mutex>
#include <unordered_map>

#include "device/openreg_kernel.h"
#include "device/openreg_profile.h"
#include "kernels/AliasPool.h"
#include "kernels/Parallel.h"

namespace at::openreg {
namespace {

namespace CachingAllocator = c10::openreg::CachingAllocator;

// What the thread's running kernel allocates for; no stream: no kernel runs.
struct KernelState {
  orStream_t stream = nullptr;
  c10::DeviceIndex device = 0;
  bool active = false;
  const Placement* placements = nullptr;
  size_t placement_count = 0;
  uint64_t placements_used = 0;
};

thread_local constinit KernelState kernel_state;

// Blocks of kernel memory by backing address. ATen's raw_allocate wants memory
// whose owner is its own address, so the block cannot be the DataPtr's context.
class KernelBlocks {
 public:
  void insert(void* backing, void* block) {
    std::lock_guard<std::mutex> guard(mutex_);
    blocks_.emplace(backing, block);
  }

  void* remove(void* backing) {
    std::lock_guard<std::mutex> guard(mutex_);
    const auto it = blocks_.find(backing);
    if (it == blocks_.end()) {
      return nullptr;
    }
    void* block = it->second;
    blocks_.erase(it);
    return block;
  }

 private:
  std::mutex mutex_;
  std::unordered_map<void*, void*> blocks_;
};

KernelBlocks& kernel_blocks() {
  static auto* blocks = new KernelBlocks();
  return *blocks;
}

void free_kernel_memory(void* backing) {
  CachingAllocator::free_in_kernel(kernel_blocks().remove(backing));
}

c10::DeleterFnPtr host_raw_deleter = nullptr;

// For raw_deallocate within a kernel, of memory from before it or from it.
void free_any(void* memory) {
  if (orIsDeviceAddress(orDeviceAddress(memory))) {
    free_kernel_memory(memory);
  } else {
    host_raw_deleter(memory);
  }
}

void free_nothing(void*) {}

// Note [Kernel memory]
// ATen's CPU kernels allocate through the process's CPU allocator. While a
// device kernel runs on the thread, this one hands out device memory at its
// backing address, so that temporaries are accounted on the device and outputs
// can be adopted instead of copied. On all other threads and at all other times
// it is the allocator that was there before.
class KernelAllocator final : public c10::Allocator {
 public:
  explicit KernelAllocator(c10::Allocator* host) : host_(host) {
    host_raw_deleter = host->raw_deleter();
  }

  c10::DataPtr allocate(size_t nbytes) override {
    KernelState& state = kernel_state;
    if (C10_LIKELY(!state.active) || nbytes == 0) {
      return host_->allocate(nbytes);
    }
    for (size_t i = 0; i < state.placement_count; ++i) {
      if (state.placements[i].nbytes == nbytes && !(state.placements_used >> i & 1)) {
        state.placements_used |= uint64_t{1} << i;
        void* backing = state.placements[i].backing;
        return {backing, backing, &free_nothing, c10::DeviceType::CPU};
      }
    }
    CachingAllocator::KernelMemory memory;
    try {
      memory = CachingAllocator::allocate_in_kernel(nbytes, state.device, state.stream);
    } catch (const c10::OutOfMemoryError&) {
      if (exceeds_capacity(nbytes, state.device)) {
        throw;
      }
      // There is room, but the host has run ahead and queued work still holds
      // it. Whether a program fits must not depend on timing.
      return host_->allocate(nbytes);
    }
    void* backing = orBacking(memory.address);
    kernel_blocks().insert(backing, memory.block);
    return {backing, backing, &free_kernel_memory, c10::DeviceType::CPU};
  }

  c10::DeleterFnPtr raw_deleter() const override {
    return kernel_state.active ? &free_any : host_raw_deleter;
  }

  void copy_data(void* dst, const void* src, size_t count) const override {
    default_copy_data(dst, src, count);
  }

  bool is_simple_data_ptr(const c10::DataPtr& ptr) const override {
    return host_->is_simple_data_ptr(ptr);
  }

 private:
  static bool exceeds_capacity(size_t nbytes, c10::DeviceIndex device) {
    auto* allocator = CachingAllocator::get();
    const auto stats = allocator->getDeviceStats(device);
    const auto allocated =
        stats.allocated_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)]
            .current;
    return static_cast<size_t>(allocated) + nbytes > allocator->getMemoryInfo(device).second;
  }

  c10::Allocator* host_;
};

const bool kernel_allocator_installed = [] {
  // Never freed: tensors of other libraries may be freed after static
  // destructors have run.
  auto* allocator = new KernelAllocator(c10::GetCPUAllocator());
  c10::SetCPUAllocator(allocator, /*priority=*/1);
  return true;
}();

class ActiveKernel {
 public:
  ActiveKernel(c10::DeviceIndex device, orStream_t stream) : previous_(kernel_state) {
    kernel_state = {stream, device, true, nullptr, 0, 0};
  }
  ~ActiveKernel() {
    kernel_state = previous_;
  }

 private:
  KernelState previous_;
};

// Dispatcher state of device code: no mode of the caller, no autograd. Factories
// find their kernel through BackendSelect.
struct KernelDispatch {
  c10::impl::ForceDispatchKeyGuard keys{c10::DispatchKeySet(c10::DispatchKey::BackendSelect),
                                        c10::autograd_dispatch_keyset_with_ADInplaceOrView |
                                            c10::autocast_dispatch_keyset};
  c10::InferenceMode inference{true};
  at::DisableRecordFunctionGuard no_callbacks;
};

struct WorkerDispatch : KernelDispatch {
  WorkerDispatch() {
    use_helpers();
  }
};

// The device's speed for what runs on the host's thread (OPENREG_PROFILE).
class Throttle {
 public:
  explicit Throttle(c10::DeviceIndex device) {
    orThrottleBegin(&throttle_, device);
  }
  ~Throttle() {
    orThrottleEnd(&throttle_);
  }
  Throttle(const Throttle&) = delete;
  Throttle& operator=(const Throttle&) = delete;

 private:
  orThrottle throttle_;
};

template <class Function>
Function* function_of_torch(const char* name) {
  void* torch = dlopen("libtorch_cpu.so", RTLD_NOW | RTLD_NOLOAD);
  return reinterpret_cast<Function*>(torch ? dlsym(torch, name) : nullptr);
}

// The thread counts of OpenMP and of MKL belong to the calling thread;
// at::set_num_threads would also change the process's. Both are set together: MKL
// would wake its threads for the smallest product where OpenMP has only one, once
// torch.set_num_threads told it to use as many as it may.
void set_threads(int count) {
  static auto* const set_openmp = function_of_torch<void(int)>("omp_set_num_threads");
  static auto* const set_mkl = function_of_torch<int(int)>("MKL_Set_Num_Threads_Local");
  if (set_openmp != nullptr) {
    set_openmp(count);
  }
  if (set_mkl != nullptr) {
    set_mkl(count);
  }
}

void use_intra_op_threads(int count) {
  thread_local int current = 0;
  if (C10_UNLIKELY(current != count)) {
    at::init_num_threads();
    set_threads(count);
    current = count;
  }
}

orError_t fail(const orLaunchContext* context, orError_t code, const c10::Error& e) {
  return orKernelFail(context, code, e.what_without_backtrace());
}

} // namespace

int intra_op_threads_of_other_thread() {
  at::init_num_threads();
  return at::get_num_threads();
}

bool is_main_thread() {
  return syscall(SYS_gettid) == getpid();
}

OneThread::OneThread() : before_(at::get_num_threads()) {
  set_threads(1);
}

OneThread::~OneThread() {
  set_threads(before_);
}

orError_t run_on_worker(const orLaunchContext* context,
                        int intra_op_threads,
                        c10::function_ref<void()> kernel) noexcept {
  // A worker runs nothing but kernels, so it enters their dispatcher state once.
  thread_local WorkerDispatch dispatch;
  use_intra_op_threads(intra_op_threads);
  AliasPool::Scope aliases;
  ActiveKernel active(static_cast<c10::DeviceIndex>(context->device), context->stream);
  try {
    kernel();
    return orSuccess;
  } catch (const c10::IndexError& e) {
    return fail(context, orErrorLaunchIndex, e);
  } catch (const c10::ValueError& e) {
    return fail(context, orErrorLaunchValue, e);
  } catch (const c10::TypeError& e) {
    return fail(context, orErrorLaunchType, e);
  } catch (const c10::NotImplementedError& e) {
    return fail(context, orErrorLaunchNotImplemented, e);
  } catch (const c10::OutOfMemoryError& e) {
    return fail(context, orErrorLaunchOutOfMemory, e);
  } catch (const c10::LinAlgError& e) {
    return fail(context, orErrorLaunchLinAlg, e);
  } catch (const c10::Error& e) {
    return fail(context, orErrorLaunchFailure, e);
  } catch (const std::exception& e) {
    return orKernelFail(context, orErrorLaunchFailure, e.what());
  } catch (...) {
    return orKernelFail(context, orErrorLaunchFailure, "unknown C++ exception");
  }
}

void run_on_host_thread(c10::DeviceIndex device,
                        orStream_t stream,
                        c10::function_ref<void()> kernel) {
  intra_op_threads(); // sets this thread's number of them
  KernelDispatch dispatch;
  ActiveKernel active(device, stream);
  const Throttle throttle(device);
  kernel();
}

OutputPlacements::OutputPlacements(const Placement* placements, size_t count) {
  kernel_state.placements = placements;
  kernel_state.placement_count = count;
  kernel_state.placements_used = 0;
}

OutputPlacements::~OutputPlacements() {
  kernel_state.placement_count = 0;
}

CachingAllocator::KernelMemory release_kernel_memory(c10::DataPtr& ptr) {
  if (ptr.get_deleter() != &free_kernel_memory) {
    return {nullptr, nullptr};
  }
  void* backing = ptr.release_context();
  return {kernel_blocks().remove(backing), orDeviceAddress(backing)};
}

} // namespace at::openreg

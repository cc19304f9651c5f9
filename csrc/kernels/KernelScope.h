#pragma once

// The set-up under which every device kernel runs: no autograd, no dispatcher
// state of the caller, memory from the device's allocator, exceptions turned
// into the launch's error.

#include <ATen/Parallel.h>
#include <c10/core/Device.h>
#include <c10/util/FunctionRef.h>

#include "device/openreg.h"
#include "runtime/CachingAllocator.h"

namespace at::openreg {

// How many threads the CPU would use for a kernel called now. OpenMP's setting is
// each thread's own: only the main thread's follows torch.set_num_threads by
// itself, autograd's device threads would keep the number they began with.
OPENREG_API int intra_op_threads_of_other_thread();
OPENREG_API bool is_main_thread();
inline int intra_op_threads() {
  static thread_local const bool is_main = is_main_thread();
  return C10_LIKELY(is_main) ? at::get_num_threads() : intra_op_threads_of_other_thread();
}

// Runs `kernel` on a stream's worker as a launch of `intra_op_threads` threads
// (intra_op_threads() of the launching thread). Never throws.
OPENREG_API orError_t run_on_worker(const orLaunchContext* context,
                                    int intra_op_threads,
                                    c10::function_ref<void()> kernel) noexcept;

// Runs `kernel` on the calling thread as device code. The stream must be idle
// for this thread's purposes. Exceptions pass through.
OPENREG_API void
run_on_host_thread(c10::DeviceIndex device, orStream_t stream, c10::function_ref<void()> kernel);

// Where the outputs of a functional kernel shall lie: the kernel's allocations
// of exactly these sizes are served from there, first come, first served.
struct Placement {
  void* backing;
  size_t nbytes;
};
class OutputPlacements {
 public:
  OutputPlacements(const Placement* placements, size_t count);
  ~OutputPlacements();
  OutputPlacements(const OutputPlacements&) = delete;
  OutputPlacements& operator=(const OutputPlacements&) = delete;
};

// The memory behind a CPU DataPtr if a kernel allocated it on the device and
// `ptr` is its only owner, which then no longer owns it; else a null block.
OPENREG_API c10::openreg::CachingAllocator::KernelMemory release_kernel_memory(c10::DataPtr& ptr);

} // namespace at::openreg

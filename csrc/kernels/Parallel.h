#pragma once

#include <cstdint>

#include "runtime/Exception.h"

namespace at::openreg {

// Calls piece(context, begin, end) for pieces of [0, size) of `grain` or more, on
// the threads that a kernel may use. Exceptions pass through.
OPENREG_API void run_in_pieces(int64_t size,
                               int64_t grain,
                               void (*piece)(const void* context, int64_t begin, int64_t end),
                               const void* context);

// While it lives, ATen and MKL use one thread for the running kernel.
class OneThread {
 public:
  OneThread();
  ~OneThread();
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int before_;
};

// The calling thread is a stream's worker, see Note [Helpers of a worker].
void use_helpers();

} // namespace at::openreg

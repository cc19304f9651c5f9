// The caching device allocator alone: nanoseconds for an allocation and its
// free, median over batches. Target: at most 300 ns (issue order, 1 KiB and
// 64 MiB).
// Built with the tests of the runtime (tests/runtime/CMakeLists.txt).

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <thread>
#include <vector>

#include "runtime/CachingAllocator.h"

namespace {

namespace CachingAllocator = c10::openreg::CachingAllocator;

// Median and fastest over `batches` of `pairs` calls each.
template <typename Function>
void measure(const char* name, Function pair) {
  constexpr int batches = 200;
  constexpr int pairs = 1000;
  for (int i = 0; i < pairs; ++i) {
    pair(i);
  }
  std::vector<double> times;
  for (int batch = 0; batch < batches; ++batch) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < pairs; ++i) {
      pair(i);
    }
    const std::chrono::duration<double, std::nano> time = std::chrono::steady_clock::now() - start;
    times.push_back(time.count() / pairs);
  }
  std::sort(times.begin(), times.end());
  std::printf("%-44s %8.1f ns median %8.1f ns fastest\n", name, times[batches / 2], times[0]);
}

void pin_to_core(int core) {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  CPU_SET(core, &cores);
  sched_setaffinity(0, sizeof(cores), &cores);
}

} // namespace

int main() {
  c10::DeviceAllocator* allocator = CachingAllocator::get();
  const orStream_t stream = c10::openreg::current_stream_handle(0);

  measure("empty pair: current device and stream", [](int) {
    const c10::DeviceIndex device = c10::openreg::current_device();
    asm volatile("" ::"r"(c10::openreg::current_stream_handle(device)));
  });
  measure("1 KiB", [&](int) { allocator->allocate(1024); });
  measure("64 MiB", [&](int) { allocator->allocate(64 << 20); });
  measure("3 MiB, cut from a segment", [&](int) { allocator->allocate(3 << 20); });
  measure("1 KiB, given stream", [&](int) {
    CachingAllocator::allocate(1024, 0, stream, CachingAllocator::Order::Issue);
  });
  measure("1 KiB, in a kernel", [&](int) {
    CachingAllocator::free_in_kernel(CachingAllocator::allocate_in_kernel(1024, 0, stream).block);
  });

  // As a program does it: many sizes, and many blocks alive.
  std::vector<c10::DataPtr> alive(512);
  uint32_t random = 1;
  measure("mixed sizes up to 64 KiB, 512 alive", [&](int) {
    random = random * 1664525 + 1013904223;
    alive[random >> 23] = allocator->allocate(1 + ((random >> 8) & 0xffff));
  });
  measure("mixed sizes up to 8 MiB, 512 alive", [&](int) {
    random = random * 1664525 + 1013904223;
    alive[random >> 23] = allocator->allocate(1 + ((random >> 1) & 0x7fffff));
  });

  // While another thread, as a stream's worker does, allocates for kernels: the
  // worst case of contention, if the machine has a core for it.
  std::atomic<bool> stop{false};
  std::atomic<int64_t> pairs{0};
  pin_to_core(0);
  std::thread worker([&] {
    pin_to_core(1);
    for (; !stop.load(std::memory_order_relaxed); ++pairs) {
      CachingAllocator::free_in_kernel(CachingAllocator::allocate_in_kernel(2048, 0, stream).block);
    }
  });
  while (pairs == 0) {
  }
  measure("1 KiB, and another thread all the time", [&](int) { allocator->allocate(1024); });
  stop = true;
  worker.join();
  return 0;
}

// csrc/runtime's caching device allocator under several threads and streams that
// run behind: no two live blocks may share memory.

#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "RuntimeTest.h"

using namespace test;

namespace {

std::atomic<int> without_memory{0};

struct Held {
  DataPtr ptr;
  size_t size;
  uint32_t value;
};

size_t random_size(std::mt19937& random) {
  // Mostly small, some that are cut from large segments, few on their own.
  switch (random() % 16) {
    case 0:
      return (1 + random() % (12 * MiB)) & ~size_t{3};
    case 1:
    case 2:
      return (MiB + random() % (2 * MiB)) & ~size_t{3};
    default:
      return 4 + (random() % (64 * KiB) & ~size_t{3});
  }
}

// What a kernel does that needs memory for itself.
void use_temporary(orStream_t stream, size_t size, uint32_t value) {
  CachingAllocator::KernelMemory memory;
  try {
    memory = CachingAllocator::allocate_in_kernel(size, 0, stream);
  } catch (const c10::OutOfMemoryError&) {
    // All that is free may still be read by queued work.
    without_memory++;
    return;
  }
  auto* words = backing<uint32_t>(memory.address);
  std::fill(words, words + size / 4, value);
  std::this_thread::yield();
  wrong += !is_filled(words, size, value);
  CachingAllocator::free_in_kernel(memory.block);
}

// Threads allocate, write, hand over, record and free on their own and others'
// streams, running ahead of them; kernels allocate too. No two live blocks may
// share memory.
void stress_thread(OpenRegStream stream, OpenRegStream other, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<Held> held;
  orEvent_t event;
  OK(orEventCreate(&event, orEventDisableTiming));
  size_t bytes = 0;
  for (int i = 0; i < 1500; ++i) {
    if (bytes < 24 * MiB && random() % 2) {
      const size_t size = random_size(random);
      const uint32_t value = random();
      Held block{allocate(size, stream.handle()), size, value};
      fill(stream.handle(), block.ptr, size, value);
      bytes += size;
      held.push_back(std::move(block));
    } else if (!held.empty()) {
      const size_t which = random() % held.size();
      std::swap(held[which], held.back());
      Held& block = held.back();
      verify(stream.handle(), block.ptr, block.size, block.value);
      if (random() % 4 == 0) {
        OK(orEventRecord(event, stream.handle()));
        OK(orStreamWaitEvent(other.handle(), event, 0));
        verify(other.handle(), block.ptr, block.size, block.value);
        CachingAllocator::record_stream(block.ptr, other);
      }
      bytes -= block.size;
      held.pop_back();
    }
    if (random() % 4 == 0) {
      const size_t size = random_size(random);
      const uint32_t value = random();
      OK(launch(stream.handle(), "temporary", [=](const orLaunchContext* context) {
        use_temporary(context->stream, size, value);
      }));
    }
    if (random() % 256 == 0) {
      allocator().emptyCache();
    }
  }
  for (Held& block : held) {
    verify(stream.handle(), block.ptr, block.size, block.value);
  }
  held.clear();
  OK(orStreamSynchronize(stream.handle()));
  OK(orEventDestroy(event));
}

} // namespace

ALLOCATOR_TEST(Stress) {
  std::vector<OpenRegStream> streams;
  for (int i = 0; i < 4; ++i) {
    streams.push_back(other_stream());
  }
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      try {
        stress_thread(streams[i], streams[(i + 1) % 4], i);
      } catch (const std::exception& e) {
        std::fprintf(stderr, "%s\n", e.what());
        wrong++;
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  OK(orDeviceSynchronize());
  EXPECT_EQ(wrong.load(), 0);
  check_consistency();
  EXPECT(without_memory < 60);
  EXPECT_EQ(current(stats().allocated_bytes), 0);
  allocator().emptyCache();
  EXPECT_EQ(current(stats().active_bytes), 0);
  EXPECT_EQ(current(stats().reserved_bytes), 0);
  check_consistency();
}

// Blocks allocated by one thread and freed by another.
ALLOCATOR_TEST(StressHandover) {
  const orStream_t stream = current_stream_handle(0);
  std::mutex mutex;
  std::vector<Held> shared;
  std::vector<std::thread> threads;
  for (uint32_t seed = 0; seed < 4; ++seed) {
    threads.emplace_back([&, seed] {
      std::mt19937 random(seed);
      for (int i = 0; i < 4000; ++i) {
        const size_t size = 4 + (random() % (8 * KiB) & ~size_t{3});
        Held block{allocate(size, stream), size, uint32_t(random())};
        fill(stream, block.ptr, size, block.value);
        std::lock_guard<std::mutex> guard(mutex);
        shared.push_back(std::move(block));
        std::swap(shared[random() % shared.size()], shared.back());
        if (shared.size() > 100) {
          Held& last = shared.back();
          verify(stream, last.ptr, last.size, last.value);
          shared.pop_back();
        }
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  OK(orDeviceSynchronize());
  EXPECT_EQ(wrong.load(), 0);
  check_consistency();
}

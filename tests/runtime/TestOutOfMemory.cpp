// csrc/runtime's caching device allocator when the device is full.

#include <chrono>
#include <cstring>
#include <thread>
#include <vector>

#include "RuntimeTest.h"
#include "runtime/OutOfMemory.h"

using namespace test;

ALLOCATOR_TEST(OutOfMemory) {
  const auto before = stats();
  DataPtr held = allocator().allocate(100 * MiB);
  for (const char* part :
       {"openreg out of memory", "Tried to allocate 200.00 MiB", "Device 0",
        "total capacity of 256.00 MiB", "156.00 MiB is free", "100.00 MiB is allocated by PyTorch",
        "0 bytes is reserved", "PYTORCH_ALLOC_CONF", "OPENREG_DEVICE_MEMORY"}) {
    RAISES(allocator().allocate(200 * MiB), c10::OutOfMemoryError, part);
  }
  EXPECT_EQ(stats().num_ooms, before.num_ooms + 9);
  EXPECT_EQ(stats().num_alloc_retries, before.num_alloc_retries + 9);
  RAISES(allocator().allocate(size_t{1} << 61), c10::OutOfMemoryError, "1EB");
  RAISES(allocator().allocate(~size_t{0}), c10::OutOfMemoryError, "1EB");
  held.clear();
  EXPECT(allocator().allocate(200 * MiB));
  EXPECT(orPeekAtLastError() == orSuccess);
  check_consistency();
}

ALLOCATOR_TEST(OutOfMemoryObserver) {
  c10::openreg::OutOfMemory seen{};
  c10::openreg::attach_out_of_memory_observer(
      [&seen](const c10::openreg::OutOfMemory& what) { seen = what; });
  DataPtr held = allocator().allocate(16 * MiB);
  RAISES(allocator().allocate(300 * MiB), c10::OutOfMemoryError, "");
  EXPECT_EQ(seen.tried, 300 * MiB);
  EXPECT_EQ(seen.total, kCapacity);
  EXPECT_EQ(seen.free, kCapacity - 16 * MiB);
  EXPECT_EQ(seen.allocated, 16 * MiB);
}

// What is cached, in bins, on other streams and behind recorded streams, makes
// room before an allocation fails.
ALLOCATOR_TEST(OutOfMemoryFlushes) {
  const OpenRegStream other = other_stream();
  std::vector<DataPtr> held;
  for (size_t i = 0; i < 8; ++i) {
    held.push_back(allocate(6 * MiB, i % 2 ? other.handle() : nullptr));
    held.push_back(allocate(15 * MiB, i % 2 ? other.handle() : nullptr));
    held.push_back(allocate(300 * KiB, nullptr));
  }
  for (DataPtr& ptr : held) {
    CachingAllocator::record_stream(ptr, other);
  }
  OK(launch(other.handle(), "sleeps",
            [] { std::this_thread::sleep_for(std::chrono::milliseconds(50)); }));
  held.clear();
  const auto before = stats();
  DataPtr all = allocator().allocate(kCapacity);
  EXPECT(all);
  EXPECT_EQ(stats().num_alloc_retries, before.num_alloc_retries + 1);
  EXPECT_EQ(stats().num_ooms, before.num_ooms);
  EXPECT_EQ(stats().num_sync_all_streams, before.num_sync_all_streams + 1);
  EXPECT(stats().num_device_free > before.num_device_free);
  check_consistency();
}

// A running kernel cannot wait for the device, but idle segments make room.
ALLOCATOR_TEST(OutOfMemoryInKernel) {
  const OpenRegStream other = other_stream();
  for (const orStream_t stream : {current_stream_handle(0), other.handle()}) {
    std::vector<DataPtr> held;
    for (int i = 0; i < 8; ++i) {
      held.push_back(allocate(30 * MiB, i % 2 ? stream : nullptr));
    }
  }
  OK(orDeviceSynchronize());
  std::atomic<int> result{0};
  const auto kernel = [&](const orLaunchContext* context) {
    try {
      auto memory = CachingAllocator::allocate_in_kernel(200 * MiB, 0, context->stream);
      std::memset(orBacking(memory.address), 1, 200 * MiB);
      try {
        CachingAllocator::allocate_in_kernel(100 * MiB, 0, context->stream);
      } catch (const c10::OutOfMemoryError&) {
        result = 1;
      }
      CachingAllocator::free_in_kernel(memory.block);
    } catch (const c10::Error& e) {
      std::fprintf(stderr, "%s\n", e.what());
    }
  };
  OK(launch(current_stream_handle(0), "allocates", kernel));
  OK(orDeviceSynchronize());
  EXPECT(result == 1);
  check_consistency();
}

// A kernel gets what other streams have free and are done with, if nothing else
// is left; it stays that stream's.
ALLOCATOR_TEST(Borrowing) {
  const OpenRegStream owner = other_stream();
  const orStream_t stream = current_stream_handle(0);
  std::vector<DataPtr> held, freed;
  for (int i = 0; i < 12; ++i) {
    held.push_back(allocate(9 * MiB, owner.handle()));
    freed.push_back(allocate(9 * MiB, owner.handle()));
  }
  DataPtr rest = allocator().allocate(16 * MiB);
  std::vector<void*> addresses;
  for (DataPtr& ptr : freed) {
    addresses.push_back(ptr.get());
  }
  const auto is_freed = [&](void* address) {
    return std::count(addresses.begin(), addresses.end(), address) == 1;
  };
  {
    Blocked blocked(owner.handle());
    freed.clear();
    RAISES(CachingAllocator::allocate_in_kernel(9 * MiB, 0, stream), c10::OutOfMemoryError, "");
  }
  auto memory = CachingAllocator::allocate_in_kernel(9 * MiB, 0, stream);
  EXPECT(is_freed(memory.address));
  check_consistency();

  Blocked blocked(stream);
  // The kernel is done with it when it frees it.
  CachingAllocator::free_in_kernel(memory.block);
  for (int i = 0; i < 12; ++i) {
    freed.push_back(allocate(9 * MiB, owner.handle()));
    EXPECT(is_freed(freed.back().get()));
  }
  freed.clear();
  owner.synchronize();

  // A tensor that the kernel made of it may have work on the kernel's stream.
  memory = CachingAllocator::allocate_in_kernel(9 * MiB, 0, stream);
  EXPECT(is_freed(memory.address));
  DataPtr tensor = CachingAllocator::to_data_ptr(memory, 0);
  tensor.clear();
  EXPECT_EQ(current(stats().active), current(stats().allocation) + 1);
  for (int i = 0; i < 11; ++i) {
    freed.push_back(allocate(9 * MiB, owner.handle()));
    EXPECT(freed.back().get() != memory.address);
  }
  blocked.finish();
  EXPECT(allocate(9 * MiB, owner.handle()).get() == memory.address);
  check_consistency();
}

// One thread waits for the device to make room while its kernels allocate.
ALLOCATOR_TEST(KernelsAllocateWhileHostWaits) {
  const orStream_t stream = current_stream_handle(0);
  for (int i = 0; i < 20; ++i) {
    DataPtr cached = allocator().allocate(120 * MiB);
    const auto kernel = [](const orLaunchContext* context) {
      for (int j = 0; j < 20; ++j) {
        auto memory = CachingAllocator::allocate_in_kernel((j + 1) * 4 * KiB, 0, context->stream);
        std::this_thread::sleep_for(std::chrono::microseconds(200));
        CachingAllocator::free_in_kernel(memory.block);
      }
    };
    OK(launch(stream, "allocates", kernel));
    cached.clear();
    EXPECT(allocator().allocate(i % 2 ? 220 * MiB : 200 * MiB));
  }
  OK(orDeviceSynchronize());
  check_consistency();
}

ALLOCATOR_TEST(MemoryFraction) {
  CachingAllocator::set_memory_fraction(0.5, 0);
  EXPECT(CachingAllocator::get_memory_fraction(0) == 0.5);
  RAISES(allocator().allocate(129 * MiB), c10::OutOfMemoryError, "128.00 MiB allowed");
  EXPECT(allocator().allocate(128 * MiB));
  CachingAllocator::set_memory_fraction(1, 0);
  EXPECT(allocator().allocate(129 * MiB));
  RAISES(CachingAllocator::set_memory_fraction(1.5, 0), c10::ValueError, "fraction");
}

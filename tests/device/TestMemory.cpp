#include <algorithm>
#include <random>
#include <thread>

#include "Test.h"

using namespace test;

namespace {

constexpr size_t kMiB = size_t(1) << 20;

size_t freeBytes() {
  size_t free, total;
  OK(orMemGetInfo(&free, &total));
  return free;
}

} // namespace

TEST(AddressesAreTheDevices) {
  void* a;
  OK(orMalloc(&a, 100));
  EXPECT(orIsDeviceAddress(a));
  EXPECT(!orIsDeviceAddress(&a));
  EXPECT(!orIsDeviceAddress(orBacking(a)));
  EXPECT(orDeviceAddress(orBacking(a)) == a);
  OK(orSetDevice(1));
  void* b;
  OK(orMalloc(&b, 100));
  orPointerAttributes attributes;
  OK(orPointerGetAttributes(&attributes, a));
  EXPECT_EQ(attributes.device, 0);
  OK(orPointerGetAttributes(&attributes, static_cast<char*>(b) + 99));
  EXPECT_EQ(attributes.type, orMemoryTypeDevice);
  EXPECT_EQ(attributes.device, 1);
  EXPECT(attributes.base == b);
  EXPECT_EQ(attributes.size, size_t(100));
  FAILS(orPointerGetAttributes(&attributes, static_cast<char*>(b) + 100),
        orErrorInvalidDevicePointer, "not allocated");
}

TEST(Alignment) {
  for (size_t size : {size_t(1), size_t(513), kMiB, 2 * kMiB, 5 * kMiB + 1}) {
    void *first, *second;
    OK(orMalloc(&first, size));
    OK(orMalloc(&second, size));
    size_t alignment = size >= 2 * kMiB ? 2 * kMiB : 512;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(first) % alignment, uintptr_t(0));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(second) % alignment, uintptr_t(0));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(orBacking(second)) % alignment, uintptr_t(0));
    OK(orFree(first));
    OK(orFree(second));
  }
}

TEST(ZeroBytesAndNull) {
  void* memory = &memory;
  OK(orMalloc(&memory, 0));
  EXPECT(memory == nullptr);
  OK(orFree(nullptr));
  OK(orFreeHost(nullptr));
  OK(orFreeAsync(nullptr, nullptr));
  FAILS(orMalloc(nullptr, 16), orErrorInvalidValue, "pointer is NULL");
}

TEST(OutOfMemoryAndRecovery) {
  size_t all = freeBytes();
  EXPECT_EQ(all, 64 * kMiB);
  void *a, *b, *untouched = &a;
  OK(orMalloc(&a, 40 * kMiB));
  EXPECT_EQ(freeBytes(), 24 * kMiB);
  b = untouched;
  FAILS(orMalloc(&b, 25 * kMiB), orErrorMemoryAllocation,
        "tried to allocate 26214400 bytes on device 0; 25165824 of 67108864 bytes are free");
  EXPECT(b == untouched);
  FAILS(orMalloc(&b, SIZE_MAX), orErrorMemoryAllocation, "tried to allocate");
  FAILS(orMalloc(&b, SIZE_MAX - 100), orErrorMemoryAllocation, "tried to allocate");
  OK(orMalloc(&b, 24 * kMiB));
  EXPECT_EQ(freeBytes(), size_t(0));
  OK(orSetDevice(1)); // a capacity of its own
  EXPECT_EQ(freeBytes(), 64 * kMiB);
  OK(orSetDevice(0));
  OK(orFree(a));
  OK(orFree(b));
  EXPECT_EQ(freeBytes(), all);
  OK(orMalloc(&a, 64 * kMiB));
}

TEST(FragmentationIsNotOutOfMemory) {
  // Every second block freed: half the capacity, nowhere two blocks together.
  std::vector<void*> blocks(64);
  for (void*& block : blocks) {
    OK(orMalloc(&block, kMiB));
  }
  for (size_t i = 0; i < blocks.size(); i += 2) {
    OK(orFree(blocks[i]));
  }
  void* large;
  OK(orMalloc(&large, 32 * kMiB));
  EXPECT_EQ(freeBytes(), size_t(0));
}

TEST(FreedNeighboursMerge) {
  // With the whole address range used up by turns, only merging can make room.
  std::mt19937 random(1);
  for (int round = 0; round < 20; ++round) {
    std::vector<void*> blocks;
    for (;;) {
      void* block;
      orError_t error = orMalloc(&block, 1 + random() % (3 * kMiB));
      if (error != orSuccess) {
        EXPECT_EQ(error, orErrorMemoryAllocation);
        break;
      }
      blocks.push_back(block);
    }
    std::shuffle(blocks.begin(), blocks.end(), random);
    for (void* block : blocks) {
      OK(orFree(block));
    }
    void* all;
    OK(orMalloc(&all, 64 * kMiB));
    OK(orFree(all));
  }
}

TEST(FreedPagesGoBack) {
  void* memory;
  OK(orMalloc(&memory, 32 * kMiB));
  OK(orMemset(memory, 1, 32 * kMiB));
  OK(orFree(memory));
  void* again;
  OK(orMalloc(&again, 32 * kMiB));
  EXPECT(again == memory);                   // best fit
  EXPECT_EQ(backing<char>(again)[12345], 0); // a fresh page of the system
}

TEST(WrongFrees) {
  void* memory;
  OK(orMalloc(&memory, 4096));
  FAILS(orFree(static_cast<char*>(memory) + 512), orErrorInvalidDevicePointer,
        "start of an allocation");
  int host;
  FAILS(orFree(&host), orErrorInvalidDevicePointer, "must be device memory");
  OK(orFree(memory));
  FAILS(orFree(memory), orErrorInvalidDevicePointer, "not freed yet");
  FAILS(orFreeAsync(memory, nullptr), orErrorInvalidDevicePointer, "not freed yet");
}

TEST(FreeWaitsForTheDevice) {
  Gate gate;
  void* memory;
  OK(orMalloc(&memory, 4096));
  std::atomic<bool> written{false};
  OK(launch(nullptr, "write", [&] {
    gate.wait();
    memset(orBacking(memory), 1, 4096);
    written = true;
  }));
  std::thread opener([&] {
    gate.waitForArrivals(1);
    gate.open();
  });
  OK(orFree(memory));
  EXPECT(written.load());
  opener.join();
}

TEST(StreamOrderedFree) {
  orStream_t stream;
  OK(orStreamCreate(&stream));
  Gate gate;
  void *memory, *other;
  OK(orMallocAsync(&memory, 40 * kMiB, stream));
  OK(launch(stream, "gate", [&] { gate.wait(); }));
  OK(launch(stream, "use", [=] { memset(orBacking(memory), 1, 4096); }));
  OK(orFreeAsync(memory, stream));
  // Accounted at the call, but the addresses are still in use.
  EXPECT_EQ(freeBytes(), 64 * kMiB);
  FAILS(orFreeAsync(memory, stream), orErrorInvalidDevicePointer, "not freed yet");
  FAILS(orMemset(memory, 0, 16), orErrorInvalidDevicePointer, "any more");
  OK(orMallocAsync(&other, 40 * kMiB, stream));
  EXPECT(other != memory);
  gate.open();
  OK(orStreamSynchronize(stream));
  orPointerAttributes attributes;
  FAILS(orPointerGetAttributes(&attributes, memory), orErrorInvalidDevicePointer, "not allocated");
  OK(orFree(other));
}

TEST(AllocationWaitsForPendingFreesRatherThanFail) {
  // Far more than the address range holds; nothing here waits but orMallocAsync.
  orStream_t stream;
  OK(orStreamCreate(&stream));
  for (int i = 0; i < 50; ++i) {
    void* memory;
    OK(orMallocAsync(&memory, 40 * kMiB, stream));
    OK(orMemsetAsync(memory, i, 64, stream));
    OK(orFreeAsync(memory, stream));
  }
  OK(orStreamSynchronize(stream));
  EXPECT_EQ(freeBytes(), 64 * kMiB);
}

TEST(PinnedAttributes) {
  OK(orSetDevice(1));
  void* pinned;
  OK(orHostAlloc(&pinned, 3 * kMiB, 0));
  memset(pinned, 5, 3 * kMiB); // ordinary memory
  orPointerAttributes attributes;
  OK(orPointerGetAttributes(&attributes, static_cast<char*>(pinned) + 3 * kMiB - 1));
  EXPECT_EQ(attributes.type, orMemoryTypeHost);
  EXPECT_EQ(attributes.device, 1);
  EXPECT(attributes.base == pinned);
  EXPECT_EQ(attributes.size, 3 * kMiB);
  int pageable;
  OK(orPointerGetAttributes(&attributes, &pageable));
  EXPECT_EQ(attributes.type, orMemoryTypeUnregistered);
  EXPECT_EQ(attributes.device, -1);
  EXPECT(attributes.base == nullptr);
  OK(orPointerGetAttributes(&attributes, nullptr));
  EXPECT_EQ(attributes.type, orMemoryTypeUnregistered);
  FAILS(orFreeHost(static_cast<char*>(pinned) + 1), orErrorInvalidValue, "orHostAlloc");
  OK(orFreeHost(pinned));
  FAILS(orFreeHost(pinned), orErrorInvalidValue, "orHostAlloc");
  OK(orPointerGetAttributes(&attributes, pinned));
  EXPECT_EQ(attributes.type, orMemoryTypeUnregistered);
  FAILS(orHostAlloc(&pinned, SIZE_MAX, 0), orErrorHostMemoryAllocation, "has not");
  FAILS(orHostAlloc(&pinned, 16, 99), orErrorInvalidValue, "flags");
}

TEST_ENV(MemoryCheckAtTheLaunch, "OPENREG_MEMORY_CHECK=1") {
  void *memory, *other;
  OK(orMalloc(&memory, 5000));
  OK(orSetDevice(1));
  OK(orMalloc(&other, 5000));
  OK(orSetDevice(0));
  struct Kernel {
    void* base;
    size_t size;
  };
  static const orClosureType type = {
      sizeof(Kernel),
      alignof(Kernel),
      nullptr,
      [](void* closure, const orLaunchContext*) {
        auto* kernel = static_cast<Kernel*>(closure);
        memset(orBacking(kernel->base), 1, kernel->size);
        return orSuccess;
      },
      nullptr,
      [](const void* closure, orMemoryRange* ranges, size_t capacity) {
        auto* kernel = static_cast<const Kernel*>(closure);
        if (capacity) {
          ranges[0] = {kernel->base, kernel->size, 1};
        }
        return size_t(1);
      }};
  Kernel good{memory, 5000};
  OK(orLaunch(nullptr, "fill", &type, &good));
  Kernel beyond{memory, 5001};
  FAILS(orLaunch(nullptr, "fill", &type, &beyond), orErrorInvalidDevicePointer,
        "fill: writes 5001 bytes");
  Kernel peer{other, 16};
  FAILS(orLaunch(nullptr, "fill", &type, &peer), orErrorPeerAccessNotEnabled, "memory of device 1");
  OK(orDeviceEnablePeerAccess(1, 0));
  OK(orLaunch(nullptr, "fill", &type, &peer));
  OK(orDeviceSynchronize());
  OK(orFree(memory));
  FAILS(orLaunch(nullptr, "fill", &type, &good), orErrorInvalidDevicePointer, "fill: writes");
}

TEST(ManyThreadsAllocate) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t] {
      std::mt19937 random(t);
      std::vector<std::pair<char*, size_t>> mine;
      for (int i = 0; i < 500; ++i) {
        if (mine.size() > 20 || (!mine.empty() && random() % 3 == 0)) {
          auto [pointer, size] = mine.back();
          mine.pop_back();
          // Nobody else got the same bytes.
          EXPECT_EQ(int(backing<char>(pointer)[0]), t + 1);
          EXPECT_EQ(int(backing<char>(pointer)[size - 1]), t + 1);
          OK(orFree(pointer));
        } else {
          size_t size = 1 + random() % 100000;
          void* pointer;
          OK(orMalloc(&pointer, size));
          memset(orBacking(pointer), t + 1, size);
          mine.emplace_back(static_cast<char*>(pointer), size);
        }
      }
      for (auto& block : mine) {
        OK(orFree(block.first));
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(freeBytes(), 64 * kMiB);
}

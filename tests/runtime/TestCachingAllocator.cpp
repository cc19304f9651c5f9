// csrc/runtime's caching device allocator, one behaviour at a time. See
// TestOutOfMemory.cpp for a full device, TestAllocatorStress.cpp for all at once.

#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <thread>
#include <vector>

#include <c10/core/AllocatorConfig.h>

#include "RuntimeTest.h"

using namespace test;

namespace test {

void check_consistency() {
  struct Sums {
    int64_t allocation, allocated, active, active_bytes, split, split_bytes, segments, reserved,
        requested;
  } sums[3] = {};
  for (const auto& segment : CachingAllocator::snapshot()) {
    if (segment.device != 0) {
      continue;
    }
    for (int type : {0, segment.is_large ? 2 : 1}) {
      Sums& sum = sums[type];
      sum.segments++;
      sum.reserved += segment.total_size;
      for (const auto& block : segment.blocks) {
        sum.allocation += block.allocated;
        sum.allocated += block.allocated ? block.size : 0;
        sum.requested += block.allocated ? block.requested_size : 0;
        sum.active += block.active;
        sum.active_bytes += block.active ? block.size : 0;
        if (!block.active && segment.blocks.size() > 1) {
          sum.split++;
          sum.split_bytes += block.size;
        }
      }
    }
  }
  const auto now = stats();
  for (int type = 0; type < 3; ++type) {
    EXPECT_EQ(current(now.allocation, type), sums[type].allocation);
    EXPECT_EQ(current(now.allocated_bytes, type), sums[type].allocated);
    EXPECT_EQ(current(now.requested_bytes, type), sums[type].requested);
    EXPECT_EQ(current(now.active, type), sums[type].active);
    EXPECT_EQ(current(now.active_bytes, type), sums[type].active_bytes);
    EXPECT_EQ(current(now.inactive_split, type), sums[type].split);
    EXPECT_EQ(current(now.inactive_split_bytes, type), sums[type].split_bytes);
    EXPECT_EQ(current(now.segment, type), sums[type].segments);
    EXPECT_EQ(current(now.reserved_bytes, type), sums[type].reserved);
  }
  for (const auto* stat :
       {&now.allocation, &now.allocated_bytes, &now.requested_bytes, &now.active, &now.active_bytes,
        &now.inactive_split, &now.inactive_split_bytes, &now.segment, &now.reserved_bytes}) {
    for (const auto& s : *stat) {
      EXPECT(s.peak >= s.current && s.current >= 0);
    }
  }
  const auto [free, total] = allocator().getMemoryInfo(0);
  EXPECT(total == kCapacity);
  EXPECT(total - free == size_t(sums[0].reserved));
}

} // namespace test

ALLOCATOR_TEST(DataPtr) {
  DataPtr ptr = allocator().allocate(1000);
  EXPECT(orIsDeviceAddress(ptr.get()));
  EXPECT(reinterpret_cast<uintptr_t>(ptr.get()) % 512 == 0);
  EXPECT(ptr.device() == c10::Device(c10::DeviceType::PrivateUse1, 0));
  EXPECT(CachingAllocator::owns(ptr));
  EXPECT(allocator().is_simple_data_ptr(ptr));
  EXPECT(allocator().raw_deleter() == nullptr);

  DataPtr empty = allocator().allocate(0);
  EXPECT(empty.get() == nullptr && empty.device() == ptr.device());
  EXPECT(!CachingAllocator::owns(empty));
  EXPECT(allocator().is_simple_data_ptr(empty));

  orSetDevice(1);
  EXPECT(allocator().allocate(1).device().index() == 1);
  orSetDevice(0);
  RAISES(CachingAllocator::allocate(1, 9, nullptr, Order::Issue), c10::Error, "9");
  // NULL is the default stream.
  const void* first = allocate(5 * KiB, nullptr).get();
  EXPECT(first == allocate(5 * KiB, current_stream_handle(0)).get());
}

ALLOCATOR_TEST(RoundingAndPools) {
  DataPtr small = allocator().allocate(1);
  EXPECT_EQ(current(stats().allocated_bytes), 512);
  EXPECT_EQ(current(stats().requested_bytes), 1);
  EXPECT_EQ(current(stats().reserved_bytes, 1), int64_t(2 * MiB));
  DataPtr border = allocator().allocate(MiB);
  EXPECT_EQ(current(stats().reserved_bytes, 2), 0);
  DataPtr large = allocator().allocate(MiB + 1);
  EXPECT_EQ(current(stats().reserved_bytes, 2), int64_t(20 * MiB));
  DataPtr larger = allocator().allocate(10 * MiB);
  EXPECT_EQ(current(stats().reserved_bytes, 2), int64_t(20 * MiB));
  DataPtr own = allocator().allocate(33 * MiB + 5);
  EXPECT_EQ(current(stats().reserved_bytes, 2), int64_t(54 * MiB));
  check_consistency();
}

ALLOCATOR_TEST(SplitAndMerge) {
  std::vector<DataPtr> parts;
  for (int i = 0; i < 16; ++i) {
    parts.push_back(allocator().allocate(128 * KiB));
  }
  EXPECT_EQ(current(stats().segment), 1);
  char* begin = static_cast<char*>(parts[0].get());
  for (int i : {3, 1, 2, 0, 4, 5, 6, 7, 12, 9, 11, 8, 10, 15, 14, 13}) {
    parts[i].clear();
  }
  check_consistency();
  DataPtr whole = allocator().allocate(MiB);
  EXPECT(whole.get() == begin);
  EXPECT_EQ(current(stats().segment), 1);
  check_consistency();
}

ALLOCATOR_TEST(BestFit) {
  std::vector<DataPtr> held;
  DataPtr a = allocator().allocate(4 * MiB);
  held.push_back(allocator().allocate(2 * MiB));
  DataPtr b = allocator().allocate(3 * MiB);
  held.push_back(allocator().allocate(2 * MiB));
  const void* b_was = b.get();
  a.clear();
  b.clear();
  EXPECT(allocator().allocate(2 * MiB + 512 * KiB).get() == b_was);
  check_consistency();
}

ALLOCATOR_TEST(IssueOrder) {
  const orStream_t stream = current_stream_handle(0);
  Blocked blocked(stream);
  DataPtr a = allocator().allocate(8 * KiB);
  const void* address = a.get();
  a.clear();
  EXPECT(allocator().allocate(8 * KiB).get() == address);
  // Another stream must not get it.
  EXPECT(allocate(8 * KiB, other_stream().handle()).get() != address);
}

ALLOCATOR_TEST(ExecutionOrder) {
  const orStream_t stream = current_stream_handle(0);
  for (size_t size : {8 * KiB, 4 * MiB, 64 * MiB}) {
    const void* address;
    {
      Blocked blocked(stream);
      DataPtr a = allocator().allocate(size);
      address = a.get();
      a.clear();
      auto memory = CachingAllocator::allocate_in_kernel(size, 0, stream);
      // Queued work may still read it.
      EXPECT(memory.address != address);
      const void* freed_by_kernel = memory.address;
      CachingAllocator::free_in_kernel(memory.block);
      memory = CachingAllocator::allocate_in_kernel(size, 0, stream);
      EXPECT(memory.address == freed_by_kernel);
      DataPtr handed_over = CachingAllocator::to_data_ptr(memory, 0);
      EXPECT(CachingAllocator::owns(handed_over));
      handed_over.clear();
      DataPtr b = allocate(size, stream, Order::Execution);
      EXPECT(b.get() != address && b.get() != freed_by_kernel);
    }
    allocator().emptyCache();
    DataPtr a = allocator().allocate(size);
    address = a.get();
    a.clear();
    OK(orStreamSynchronize(stream));
    DataPtr b = allocate(size, stream, Order::Execution);
    EXPECT(b.get() == address);
  }
  check_consistency();
}

// A merged block is as busy as its busiest part; so are the parts of a split.
ALLOCATOR_TEST(ExecutionOrderMerged) {
  const orStream_t stream = current_stream_handle(0);
  DataPtr a = allocator().allocate(2 * MiB);
  DataPtr b = allocator().allocate(2 * MiB);
  DataPtr rest = allocator().allocate(16 * MiB);
  const void* from = a.get();
  a.clear();
  Blocked blocked(stream);
  b.clear();
  DataPtr c = allocate(2 * MiB, stream, Order::Execution);
  EXPECT(c.get() != from);
  DataPtr d = allocate(4 * MiB, stream);
  EXPECT(d.get() == from);
}

ALLOCATOR_TEST(RecordStream) {
  const OpenRegStream other = other_stream();
  for (size_t size : {8 * KiB, 4 * MiB}) {
    Blocked blocked(other.handle());
    DataPtr a = allocator().allocate(size);
    const void* address = a.get();
    allocator().recordStream(a, other.unwrap());
    allocator().recordStream(a, other.unwrap());
    allocator().recordStream(a, c10::openreg::get_current_stream(0).unwrap());
    a.clear();
    EXPECT_EQ(current(stats().allocation), 0);
    EXPECT_EQ(current(stats().active), 1);
    check_consistency();
    DataPtr b = allocator().allocate(size);
    EXPECT(b.get() != address);
    blocked.finish();
    DataPtr c = allocator().allocate(size);
    EXPECT(c.get() == address);
    EXPECT_EQ(current(stats().active), 2);
    // What was recorded does not stick to the block.
    Blocked again(other.handle());
    c.clear();
    EXPECT(allocator().allocate(size).get() == address);
  }
  check_consistency();
  // Somebody else's memory, and none at all, are not our business.
  char host;
  allocator().recordStream(DataPtr(&host, c10::DeviceType::CPU), other.unwrap());
  allocator().recordStream(allocator().allocate(0), other.unwrap());
}

ALLOCATOR_TEST(RecordSeveralStreams) {
  const OpenRegStream one = other_stream(), two = other_stream();
  const OpenRegStream far = other_stream(1);
  Blocked first(one.handle()), second(two.handle()), third(far.handle());
  DataPtr a = allocator().allocate(8 * KiB);
  const void* address = a.get();
  for (const OpenRegStream& stream : {one, two, far}) {
    CachingAllocator::record_stream(a, stream);
  }
  a.clear();
  for (Blocked* stream : {&second, &first, &third}) {
    EXPECT(allocator().allocate(8 * KiB).get() != address);
    stream->finish();
  }
  // Last in, first out: the reclaimed block came last.
  EXPECT(allocator().allocate(8 * KiB).get() == address);
}

// The allocator's looking after streams must not eat the error of a kernel.
ALLOCATOR_TEST(ErrorsAreLeftAlone) {
  const OpenRegStream other = other_stream();
  DataPtr a = allocator().allocate(8 * KiB);
  OK(launch(other.handle(), "fails", [](const orLaunchContext* context) {
    return orKernelFail(context, orErrorLaunchIndex, "out of range");
  }));
  CachingAllocator::record_stream(a, other);
  a.clear();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  allocator().allocate(8 * KiB);
  allocator().emptyCache();
  RAISES(other.synchronize(), c10::IndexError, "out of range");
}

ALLOCATOR_TEST(DestroyedStream) {
  orStream_t external;
  OK(orStreamCreate(&external));
  DataPtr a = allocator().allocate(4 * MiB);
  DataPtr b = allocate(4 * MiB, external);
  {
    OK(launch(external, "sleeps",
              [] { std::this_thread::sleep_for(std::chrono::milliseconds(50)); }));
    CachingAllocator::record_stream(a, c10::openreg::get_external_stream(external, 0));
    a.clear();
    OK(orStreamDestroy(external));
  }
  b.clear();
  allocator().allocate(4 * MiB);
  check_consistency();
  allocator().emptyCache();
  EXPECT_EQ(current(stats().reserved_bytes), 0);
  check_consistency();
}

ALLOCATOR_TEST(Configuration) {
  using c10::CachingAllocator::setAllocatorSettings;
  setAllocatorSettings("max_split_size_mb:32");
  allocator().allocate(64 * MiB).clear();
  DataPtr a = allocator().allocate(3 * MiB);
  EXPECT_EQ(current(stats().segment, 2), 2);
  // As large as max_non_split_rounding_mb (20) allows, unsplit.
  DataPtr b = allocator().allocate(50 * MiB);
  EXPECT_EQ(current(stats().segment, 2), 2);
  EXPECT_EQ(stats().oversize_allocations.current, 1);
  EXPECT_EQ(stats().oversize_segments.current, 1);
  EXPECT_EQ(stats().max_split_size, int64_t(32 * MiB));
  a.clear();
  b.clear();
  allocator().emptyCache();
  EXPECT_EQ(stats().oversize_segments.current, 0);
  EXPECT_EQ(stats().oversize_allocations.current, 0);

  setAllocatorSettings("garbage_collection_threshold:0.5");
  for (size_t size : {30, 32, 34, 36, 38}) {
    allocator().allocate(size * MiB);
    DataPtr held = allocator().allocate(size * MiB);
  }
  EXPECT(current(stats().reserved_bytes) <= int64_t(170 * MiB));
  EXPECT_EQ(stats().num_alloc_retries, 0);

  setAllocatorSettings("roundup_power2_divisions:4");
  allocator().emptyCache();
  DataPtr c = allocator().allocate(1200 * KiB);
  EXPECT_EQ(current(stats().allocated_bytes), int64_t(1280 * KiB));
  check_consistency();
}

ALLOCATOR_TEST(StatisticsReset) {
  allocator().allocate(4 * MiB);
  DataPtr held = allocator().allocate(2 * MiB);
  EXPECT_EQ(stats().allocated_bytes[0].peak, int64_t(4 * MiB));
  EXPECT_EQ(stats().allocated_bytes[0].allocated, int64_t(6 * MiB));
  EXPECT_EQ(stats().allocated_bytes[0].freed, int64_t(4 * MiB));
  allocator().resetPeakStats(0);
  EXPECT_EQ(stats().allocated_bytes[0].peak, int64_t(2 * MiB));
  allocator().resetAccumulatedStats(0);
  EXPECT_EQ(stats().allocated_bytes[0].allocated, 0);
  EXPECT_EQ(stats().allocated_bytes[0].freed, 0);
  EXPECT_EQ(stats().allocated_bytes[0].current, int64_t(2 * MiB));
  held.clear();
  EXPECT_EQ(stats().allocated_bytes[0].freed, int64_t(2 * MiB));
  EXPECT_EQ(stats().num_device_alloc, 0);
}

ALLOCATOR_TEST(CopyData) {
  const orStream_t stream = current_stream_handle(0);
  DataPtr a = allocator().allocate(MiB);
  DataPtr b;
  {
    Blocked blocked(stream);
    fill(stream, a, MiB, 42);
    b = allocator().clone(a.get(), MiB); // must not wait
  }
  verify(stream, b, MiB, 42);
  OK(orStreamSynchronize(stream));
  EXPECT(wrong == 0);
}

ALLOCATOR_TEST(ForkedChild) {
  DataPtr held = allocator().allocate(MiB);
  const pid_t child = fork();
  if (child == 0) {
    held.clear(); // nothing to do, and no crash
    int result = allocator().initialized() ? 2 : 0;
    try {
      allocator().allocate(512);
      result = 3;
    } catch (const c10::Error& e) {
      if (!std::strstr(e.what(), "forked subprocess")) {
        result = 4;
      }
    }
    _exit(result);
  }
  int status = -1;
  waitpid(child, &status, 0);
  EXPECT(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

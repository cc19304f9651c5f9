// Tests of csrc/runtime's caching device allocator that need streams which are
// busy, kernels that allocate, or several threads. Without arguments runs all;
// "--list" names them, a name runs that one. Run by test_caching_allocator.py.

#include <cstdio>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <c10/core/AllocatorConfig.h>
#include <sys/wait.h>
#include <unistd.h>

#include "Launch.h"
#include "device/openreg_kernel.h"
#include "runtime/CachingAllocator.h"

namespace {

using c10::DataPtr;
using c10::openreg::current_stream_handle;
using c10::openreg::get_stream_from_pool;
using c10::openreg::OpenRegStream;
using openreg_test::Gate;
using openreg_test::launch;
namespace CachingAllocator = c10::openreg::CachingAllocator;
using CachingAllocator::Order;

constexpr size_t KiB = 1024;
constexpr size_t MiB = 1024 * KiB;
constexpr size_t kCapacity = 256 * MiB;

#define EXPECT(condition, ...)                                             \
  TORCH_CHECK(condition, __FILE__, ":", __LINE__, ": ", #condition, " ",   \
              ##__VA_ARGS__)

c10::DeviceAllocator& allocator() {
  return *CachingAllocator::get();
}

DataPtr allocate(size_t nbytes, orStream_t stream, Order order = Order::Issue) {
  return CachingAllocator::allocate(nbytes, 0, stream, order);
}

OpenRegStream other_stream() {
  return get_stream_from_pool(0, 0);
}

int64_t current(const c10::CachingAllocator::StatArray& stat, int type = 0) {
  return stat[type].current;
}

c10::CachingDeviceAllocator::DeviceStats stats() {
  return allocator().getDeviceStats(0);
}

// The statistics must say what the blocks say.
void check_consistency() {
  struct Sums {
    int64_t allocation, allocated, active, active_bytes, split, split_bytes,
        segments, reserved, requested;
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
    EXPECT(current(now.allocation, type) == sums[type].allocation);
    EXPECT(current(now.allocated_bytes, type) == sums[type].allocated);
    EXPECT(current(now.requested_bytes, type) == sums[type].requested);
    EXPECT(current(now.active, type) == sums[type].active);
    EXPECT(current(now.active_bytes, type) == sums[type].active_bytes);
    EXPECT(current(now.inactive_split, type) == sums[type].split);
    EXPECT(current(now.inactive_split_bytes, type) == sums[type].split_bytes);
    EXPECT(current(now.segment, type) == sums[type].segments);
    EXPECT(current(now.reserved_bytes, type) == sums[type].reserved);
  }
  for (const auto* stat :
       {&now.allocation, &now.allocated_bytes, &now.requested_bytes,
        &now.active, &now.active_bytes, &now.inactive_split,
        &now.inactive_split_bytes, &now.segment, &now.reserved_bytes}) {
    for (const auto& s : *stat) {
      EXPECT(s.peak >= s.current && s.current >= 0);
    }
  }
  const auto [free, total] = allocator().getMemoryInfo(0);
  EXPECT(total == kCapacity);
  EXPECT(total - free == size_t(sums[0].reserved));
}

// Fills and checks device memory as kernels do.
void fill(orStream_t stream, const DataPtr& ptr, size_t size, uint32_t value) {
  launch(stream, [to = orBacking(ptr.get()), size, value](auto*) {
    auto* words = static_cast<uint32_t*>(to);
    std::fill(words, words + size / 4, value);
    return orSuccess;
  });
}

std::atomic<int> wrong{0};
std::atomic<int> without_memory{0};

void verify(orStream_t stream, const DataPtr& ptr, size_t size, uint32_t value) {
  launch(stream, [from = orBacking(ptr.get()), size, value](auto*) {
    const auto* words = static_cast<const uint32_t*>(from);
    for (size_t i = 0; i < size / 4; ++i) {
      if (words[i] != value) {
        wrong++;
        break;
      }
    }
    return orSuccess;
  });
}

bool raises_out_of_memory(size_t nbytes, std::string* message = nullptr) {
  try {
    allocator().allocate(nbytes);
  } catch (const c10::OutOfMemoryError& e) {
    if (message) {
      *message = e.what_without_backtrace();
    }
    return true;
  }
  return false;
}

// --- one thing at a time -----------------------------------------------------

void data_ptr() {
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
  bool raised = false;
  try {
    CachingAllocator::allocate(1, 9, nullptr, Order::Issue);
  } catch (const c10::Error&) {
    raised = true;
  }
  EXPECT(raised, "device 9 does not exist");
  // NULL is the default stream.
  const void* first = allocate(5 * KiB, nullptr).get();
  EXPECT(first == allocate(5 * KiB, current_stream_handle(0)).get());
}

void rounding_and_pools() {
  DataPtr small = allocator().allocate(1);
  EXPECT(current(stats().allocated_bytes) == 512);
  EXPECT(current(stats().requested_bytes) == 1);
  EXPECT(current(stats().reserved_bytes, 1) == int64_t(2 * MiB));
  DataPtr border = allocator().allocate(MiB);
  EXPECT(current(stats().reserved_bytes, 2) == 0);
  DataPtr large = allocator().allocate(MiB + 1);
  EXPECT(current(stats().reserved_bytes, 2) == int64_t(20 * MiB));
  DataPtr larger = allocator().allocate(10 * MiB);
  EXPECT(current(stats().reserved_bytes, 2) == int64_t(20 * MiB));
  DataPtr own = allocator().allocate(33 * MiB + 5);
  EXPECT(current(stats().reserved_bytes, 2) == int64_t(54 * MiB));
  check_consistency();
}

void split_and_merge() {
  std::vector<DataPtr> parts;
  for (int i = 0; i < 16; ++i) {
    parts.push_back(allocator().allocate(128 * KiB));
  }
  EXPECT(current(stats().segment) == 1);
  char* begin = static_cast<char*>(parts[0].get());
  for (int i : {3, 1, 2, 0, 4, 5, 6, 7, 12, 9, 11, 8, 10, 15, 14, 13}) {
    parts[i].clear();
  }
  check_consistency();
  DataPtr whole = allocator().allocate(MiB);
  EXPECT(whole.get() == begin, "binned blocks were not merged");
  EXPECT(current(stats().segment) == 1);
  check_consistency();
}

void best_fit() {
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

void issue_order() {
  const orStream_t stream = current_stream_handle(0);
  Gate gate(stream);
  DataPtr a = allocator().allocate(8 * KiB);
  const void* address = a.get();
  a.clear();
  EXPECT(allocator().allocate(8 * KiB).get() == address);
  // Another stream must not get it.
  EXPECT(allocate(8 * KiB, other_stream().handle()).get() != address);
}

void execution_order() {
  const orStream_t stream = current_stream_handle(0);
  for (size_t size : {8 * KiB, 4 * MiB, 64 * MiB}) {
    const void* address;
    {
      Gate gate(stream);
      DataPtr a = allocator().allocate(size);
      address = a.get();
      a.clear();
      auto memory = CachingAllocator::allocate_in_kernel(size, 0, stream);
      EXPECT(memory.address != address, "queued work may still read it");
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
    OPENREG_CHECK(orStreamSynchronize(stream));
    DataPtr b = allocate(size, stream, Order::Execution);
    EXPECT(b.get() == address, "all work is done");
  }
  check_consistency();
}

// A merged block is as busy as its busiest part; so are the parts of a split.
void execution_order_merged() {
  const orStream_t stream = current_stream_handle(0);
  DataPtr a = allocator().allocate(2 * MiB);
  DataPtr b = allocator().allocate(2 * MiB);
  DataPtr rest = allocator().allocate(16 * MiB);
  const void* from = a.get();
  a.clear();
  Gate gate(stream);
  b.clear();
  DataPtr c = allocate(2 * MiB, stream, Order::Execution);
  EXPECT(c.get() != from);
  DataPtr d = allocate(4 * MiB, stream);
  EXPECT(d.get() == from);
}

void record_stream() {
  const OpenRegStream other = other_stream();
  for (size_t size : {8 * KiB, 4 * MiB}) {
    Gate gate(other.handle());
    DataPtr a = allocator().allocate(size);
    const void* address = a.get();
    allocator().recordStream(a, other.unwrap());
    allocator().recordStream(a, other.unwrap());
    allocator().recordStream(
        a, c10::openreg::get_current_stream(0).unwrap());
    a.clear();
    EXPECT(current(stats().allocation) == 0);
    EXPECT(current(stats().active) == 1);
    check_consistency();
    DataPtr b = allocator().allocate(size);
    EXPECT(b.get() != address);
    gate.open();
    other.synchronize();
    DataPtr c = allocator().allocate(size);
    EXPECT(c.get() == address);
    EXPECT(current(stats().active) == 2);
  }
  check_consistency();
  // Somebody else's memory, and none at all, are not our business.
  char host;
  allocator().recordStream(
      DataPtr(&host, c10::DeviceType::CPU), other.unwrap());
  allocator().recordStream(allocator().allocate(0), other.unwrap());
}

void record_several_streams() {
  const OpenRegStream one = other_stream(), two = other_stream();
  const OpenRegStream far = get_stream_from_pool(0, 1);
  Gate first(one.handle()), second(two.handle()), third(far.handle());
  DataPtr a = allocator().allocate(8 * KiB);
  const void* address = a.get();
  for (const OpenRegStream& stream : {one, two, far}) {
    CachingAllocator::record_stream(a, stream);
  }
  a.clear();
  const std::pair<Gate*, OpenRegStream> gates[] = {
      {&second, two}, {&first, one}, {&third, far}};
  for (const auto& [gate, stream] : gates) {
    EXPECT(allocator().allocate(8 * KiB).get() != address);
    gate->open();
    stream.synchronize();
  }
  // Last in, first out: the reclaimed block came last.
  EXPECT(allocator().allocate(8 * KiB).get() == address);
}

// The allocator's looking after streams must not eat the error of a kernel.
void errors_are_left_alone() {
  const OpenRegStream other = other_stream();
  DataPtr a = allocator().allocate(8 * KiB);
  launch(other.handle(), [](const orLaunchContext* context) {
    return orKernelFail(context, orErrorLaunchIndex, "out of range");
  });
  CachingAllocator::record_stream(a, other);
  a.clear();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  allocator().allocate(8 * KiB);
  allocator().emptyCache();
  bool raised = false;
  try {
    other.synchronize();
  } catch (const c10::IndexError&) {
    raised = true;
  }
  EXPECT(raised);
}

void destroyed_stream() {
  orStream_t external;
  OPENREG_CHECK(orStreamCreate(&external));
  DataPtr a = allocator().allocate(4 * MiB);
  DataPtr b = allocate(4 * MiB, external);
  {
    launch(external, [](auto*) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      return orSuccess;
    });
    CachingAllocator::record_stream(
        a, c10::openreg::get_external_stream(external, 0));
    a.clear();
    OPENREG_CHECK(orStreamDestroy(external));
  }
  b.clear();
  allocator().allocate(4 * MiB);
  check_consistency();
  allocator().emptyCache();
  EXPECT(current(stats().reserved_bytes) == 0);
  check_consistency();
}

void out_of_memory() {
  std::string message;
  const auto before = stats();
  DataPtr held = allocator().allocate(100 * MiB);
  EXPECT(raises_out_of_memory(200 * MiB, &message));
  for (const char* part :
       {"out of memory", "Tried to allocate 200.00 MiB", "Device 0",
        "total capacity of 256.00 MiB", "156.00 MiB is free",
        "100.00 MiB is allocated by PyTorch", "PYTORCH_ALLOC_CONF",
        "OPENREG_DEVICE_MEMORY"}) {
    EXPECT(message.find(part) != std::string::npos, part, " not in: ", message);
  }
  EXPECT(stats().num_ooms == before.num_ooms + 1);
  EXPECT(stats().num_alloc_retries == before.num_alloc_retries + 1);
  EXPECT(raises_out_of_memory(size_t{1} << 61, &message));
  EXPECT(raises_out_of_memory(~size_t{0}));
  held.clear();
  EXPECT(allocator().allocate(200 * MiB));
  EXPECT(orPeekAtLastError() == orSuccess);
  check_consistency();
}

// What is cached, in bins, on other streams and behind recorded streams, makes
// room before an allocation fails.
void out_of_memory_flushes() {
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
  launch(other.handle(), [](auto*) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    return orSuccess;
  });
  held.clear();
  const auto before = stats();
  DataPtr all = allocator().allocate(kCapacity);
  EXPECT(all);
  EXPECT(stats().num_alloc_retries == before.num_alloc_retries + 1);
  EXPECT(stats().num_ooms == before.num_ooms);
  EXPECT(stats().num_sync_all_streams == before.num_sync_all_streams + 1);
  EXPECT(stats().num_device_free > before.num_device_free);
  check_consistency();
}

// A running kernel cannot wait for the device, but idle segments make room.
void out_of_memory_in_kernel() {
  const OpenRegStream other = other_stream();
  for (const orStream_t stream : {current_stream_handle(0), other.handle()}) {
    std::vector<DataPtr> held;
    for (int i = 0; i < 8; ++i) {
      held.push_back(allocate(30 * MiB, i % 2 ? stream : nullptr));
    }
  }
  OPENREG_CHECK(orDeviceSynchronize());
  std::atomic<int> result{0};
  launch(current_stream_handle(0), [&](const orLaunchContext* context) {
    try {
      auto memory =
          CachingAllocator::allocate_in_kernel(200 * MiB, 0, context->stream);
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
    return orSuccess;
  });
  OPENREG_CHECK(orDeviceSynchronize());
  EXPECT(result == 1);
  check_consistency();
}

// One thread waits for the device to make room while its kernels allocate.
void kernels_allocate_while_host_waits() {
  const orStream_t stream = current_stream_handle(0);
  for (int i = 0; i < 20; ++i) {
    DataPtr cached = allocator().allocate(120 * MiB);
    launch(stream, [](const orLaunchContext* context) {
      for (int j = 0; j < 20; ++j) {
        auto memory = CachingAllocator::allocate_in_kernel(
            (j + 1) * 4 * KiB, 0, context->stream);
        std::this_thread::sleep_for(std::chrono::microseconds(200));
        CachingAllocator::free_in_kernel(memory.block);
      }
      return orSuccess;
    });
    cached.clear();
    EXPECT(allocator().allocate(i % 2 ? 220 * MiB : 200 * MiB));
  }
  OPENREG_CHECK(orDeviceSynchronize());
  check_consistency();
}

void memory_fraction() {
  CachingAllocator::set_memory_fraction(0.5, 0);
  EXPECT(CachingAllocator::get_memory_fraction(0) == 0.5);
  std::string message;
  EXPECT(raises_out_of_memory(129 * MiB, &message));
  EXPECT(message.find("128.00 MiB allowed") != std::string::npos, message);
  EXPECT(allocator().allocate(128 * MiB));
  CachingAllocator::set_memory_fraction(1, 0);
  EXPECT(allocator().allocate(129 * MiB));
  bool raised = false;
  try {
    CachingAllocator::set_memory_fraction(1.5, 0);
  } catch (const c10::ValueError&) {
    raised = true;
  }
  EXPECT(raised);
}

void configuration() {
  using c10::CachingAllocator::setAllocatorSettings;
  setAllocatorSettings("max_split_size_mb:32");
  allocator().allocate(64 * MiB).clear();
  DataPtr a = allocator().allocate(3 * MiB);
  EXPECT(current(stats().segment, 2) == 2, "a large block was split");
  // As large as max_non_split_rounding_mb (20) allows, unsplit.
  DataPtr b = allocator().allocate(50 * MiB);
  EXPECT(current(stats().segment, 2) == 2);
  EXPECT(stats().oversize_allocations.current == 1);
  EXPECT(stats().oversize_segments.current == 1);
  EXPECT(stats().max_split_size == int64_t(32 * MiB));
  a.clear();
  b.clear();
  allocator().emptyCache();
  EXPECT(stats().oversize_segments.current == 0);
  EXPECT(stats().oversize_allocations.current == 0);

  setAllocatorSettings("garbage_collection_threshold:0.5");
  for (size_t size : {30, 32, 34, 36, 38}) {
    allocator().allocate(size * MiB);
    DataPtr held = allocator().allocate(size * MiB);
  }
  EXPECT(current(stats().reserved_bytes) <= int64_t(170 * MiB));
  EXPECT(stats().num_alloc_retries == 0);

  setAllocatorSettings("roundup_power2_divisions:4");
  allocator().emptyCache();
  DataPtr c = allocator().allocate(1200 * KiB);
  EXPECT(current(stats().allocated_bytes) == int64_t(1280 * KiB));
  check_consistency();
}

void statistics_reset() {
  allocator().allocate(4 * MiB);
  DataPtr held = allocator().allocate(2 * MiB);
  EXPECT(stats().allocated_bytes[0].peak == int64_t(4 * MiB));
  EXPECT(stats().allocated_bytes[0].allocated == int64_t(6 * MiB));
  EXPECT(stats().allocated_bytes[0].freed == int64_t(4 * MiB));
  allocator().resetPeakStats(0);
  EXPECT(stats().allocated_bytes[0].peak == int64_t(2 * MiB));
  allocator().resetAccumulatedStats(0);
  EXPECT(stats().allocated_bytes[0].allocated == 0);
  EXPECT(stats().allocated_bytes[0].freed == 0);
  EXPECT(stats().allocated_bytes[0].current == int64_t(2 * MiB));
  held.clear();
  EXPECT(stats().allocated_bytes[0].freed == int64_t(2 * MiB));
  EXPECT(stats().num_device_alloc == 0);
}

void copy_data() {
  const orStream_t stream = current_stream_handle(0);
  DataPtr a = allocator().allocate(MiB);
  DataPtr b;
  {
    Gate gate(stream);
    fill(stream, a, MiB, 42);
    b = allocator().clone(a.get(), MiB); // must not wait
    gate.open();
  }
  verify(stream, b, MiB, 42);
  OPENREG_CHECK(orStreamSynchronize(stream));
  EXPECT(wrong == 0);
}

void forked_child() {
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
  EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0, status);
}

// --- everything at once ----------------------------------------------------------

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

// Threads allocate, write, hand over, record and free on their own and others'
// streams, running ahead of them; kernels allocate too. No two live blocks may
// share memory.
void stress_thread(OpenRegStream stream, OpenRegStream other, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<Held> held;
  orEvent_t event;
  OPENREG_CHECK(orEventCreate(&event, orEventDisableTiming));
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
        OPENREG_CHECK(orEventRecord(event, stream.handle()));
        OPENREG_CHECK(orStreamWaitEvent(other.handle(), event, 0));
        verify(other.handle(), block.ptr, block.size, block.value);
        CachingAllocator::record_stream(block.ptr, other);
      }
      bytes -= block.size;
      held.pop_back();
    }
    if (random() % 4 == 0) {
      const size_t size = random_size(random);
      const uint32_t value = random();
      launch(stream.handle(), [size, value](const orLaunchContext* context) {
        CachingAllocator::KernelMemory memory;
        try {
          memory =
              CachingAllocator::allocate_in_kernel(size, 0, context->stream);
        } catch (const c10::OutOfMemoryError&) {
          // All that is free may still be read by queued work.
          without_memory++;
          return orSuccess;
        }
        auto* words = static_cast<uint32_t*>(orBacking(memory.address));
        std::fill(words, words + size / 4, value);
        std::this_thread::yield();
        for (size_t i = 0; i < size / 4; ++i) {
          if (words[i] != value) {
            wrong++;
            break;
          }
        }
        CachingAllocator::free_in_kernel(memory.block);
        return orSuccess;
      });
    }
    if (random() % 256 == 0) {
      allocator().emptyCache();
    }
  }
  for (Held& block : held) {
    verify(stream.handle(), block.ptr, block.size, block.value);
  }
  held.clear();
  OPENREG_CHECK(orStreamSynchronize(stream.handle()));
  OPENREG_CHECK(orEventDestroy(event));
}

void stress() {
  wrong = 0;
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
  OPENREG_CHECK(orDeviceSynchronize());
  EXPECT(wrong == 0, wrong.load(), " blocks were overwritten");
  check_consistency();
  EXPECT(without_memory < 60, without_memory.load());
  EXPECT(current(stats().allocated_bytes) == 0);
  allocator().emptyCache();
  EXPECT(current(stats().active_bytes) == 0);
  EXPECT(current(stats().reserved_bytes) == 0);
  check_consistency();
}

// Blocks allocated by one thread and freed by another.
void stress_handover() {
  wrong = 0;
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
  OPENREG_CHECK(orDeviceSynchronize());
  EXPECT(wrong == 0, wrong.load(), " blocks were overwritten");
  check_consistency();
}

const std::pair<const char*, void (*)()> tests[] = {
    {"data_ptr", data_ptr},
    {"rounding_and_pools", rounding_and_pools},
    {"split_and_merge", split_and_merge},
    {"best_fit", best_fit},
    {"issue_order", issue_order},
    {"execution_order", execution_order},
    {"execution_order_merged", execution_order_merged},
    {"record_stream", record_stream},
    {"record_several_streams", record_several_streams},
    {"errors_are_left_alone", errors_are_left_alone},
    {"destroyed_stream", destroyed_stream},
    {"out_of_memory", out_of_memory},
    {"out_of_memory_flushes", out_of_memory_flushes},
    {"out_of_memory_in_kernel", out_of_memory_in_kernel},
    {"kernels_allocate_while_host_waits", kernels_allocate_while_host_waits},
    {"memory_fraction", memory_fraction},
    {"configuration", configuration},
    {"statistics_reset", statistics_reset},
    {"copy_data", copy_data},
    {"forked_child", forked_child},
    {"stress", stress},
    {"stress_handover", stress_handover},
};

} // namespace

int main(int argc, char** argv) {
  setenv("OPENREG_DEVICE_COUNT", "2", 1);
  setenv("OPENREG_DEVICE_MEMORY", "256MiB", 1);
  const std::string which = argc > 1 ? argv[1] : "";
  int failed = 0;
  for (const auto& [name, test] : tests) {
    if (which == "--list") {
      std::printf("%s\n", name);
    } else if (which.empty() || which == name) {
      try {
        allocator().emptyCache();
        allocator().resetAccumulatedStats(0);
        allocator().resetPeakStats(0);
        test();
        std::printf("ok %s\n", name);
      } catch (const c10::Error& e) {
        failed++;
        std::printf("FAILED %s: %s\n", name, e.what_without_backtrace());
      }
      std::fflush(stdout);
    }
  }
  return failed != 0;
}

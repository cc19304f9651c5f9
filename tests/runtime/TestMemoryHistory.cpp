// The memory history: what the allocator records of itself, from many threads.

#include <thread>
#include <vector>

#include "RuntimeTest.h"
#include "runtime/MemoryHistory.h"

using namespace test;
using c10::openreg::Context;
using c10::openreg::MemoryHistoryOptions;
using c10::openreg::record_memory_history;
using c10::openreg::RecordContext;
using c10::openreg::TraceEntry;

namespace {

struct CountedContext : c10::GatheredContext {
  CountedContext() {
    alive++;
  }
  ~CountedContext() override {
    alive--;
  }
  static inline std::atomic<int> alive{0};
};

Context gather() {
  return std::make_shared<CountedContext>();
}

MemoryHistoryOptions options(size_t max_entries = 1000) {
  MemoryHistoryOptions options;
  options.keeps_trace = true;
  options.context = RecordContext::ALL;
  options.gather = &gather;
  options.max_entries = max_entries;
  return options;
}

std::vector<TraceEntry> trace() {
  return CachingAllocator::memory_traces().at(0);
}

std::vector<TraceEntry::Action> actions() {
  std::vector<TraceEntry::Action> found;
  for (const TraceEntry& entry : trace()) {
    found.push_back(entry.action_);
  }
  return found;
}

} // namespace

ALLOCATOR_TEST(HistoryOfOneTensor) {
  record_memory_history(options(), /*clear_history=*/true);
  orStream_t stream = current_stream_handle(0);
  {
    DataPtr ptr = allocate(4 * MiB, stream);
    EXPECT(CachingAllocator::allocation_context(ptr.get()) != nullptr);
    EXPECT(CachingAllocator::allocation_context(static_cast<char*>(ptr.get()) + 1) == nullptr);
  }
  allocator().emptyCache();
  const std::vector<TraceEntry::Action> expected = {
      TraceEntry::SEGMENT_ALLOC, TraceEntry::ALLOC, TraceEntry::FREE_REQUESTED,
      TraceEntry::FREE_COMPLETED, TraceEntry::SEGMENT_FREE};
  EXPECT(actions() == expected);
}

ALLOCATOR_TEST(HistoryLetsGoOfContexts) {
  orStream_t stream = current_stream_handle(0);
  MemoryHistoryOptions state = options();
  state.keeps_trace = false;
  record_memory_history(state, /*clear_history=*/true);
  {
    DataPtr ptr = allocate(1 * MiB, stream);
    EXPECT_EQ(CountedContext::alive.load(), 1);
    // Recording that ends meanwhile changes nothing for what is live.
    record_memory_history(MemoryHistoryOptions(), false);
    EXPECT(CachingAllocator::allocation_context(ptr.get()) != nullptr);
  }
  EXPECT_EQ(CountedContext::alive.load(), 0);
}

ALLOCATOR_TEST(HistoryKeepsTheLastEntries) {
  record_memory_history(options(3), /*clear_history=*/true);
  orStream_t stream = current_stream_handle(0);
  for (int i = 1; i <= 5; ++i) {
    allocate(i * 512, stream);
  }
  const std::vector<TraceEntry> entries = trace();
  EXPECT_EQ(entries.size(), 3u);
  EXPECT(entries[0].action_ == TraceEntry::ALLOC && entries[0].size_ == 5 * 512);
  EXPECT(entries[2].action_ == TraceEntry::FREE_COMPLETED);
}

ALLOCATOR_TEST(HistoryFromManyThreads) {
  record_memory_history(options(500), /*clear_history=*/true);
  std::atomic<bool> stop{false};
  std::thread reader([&] {
    while (!stop) {
      CachingAllocator::snapshot();
      for (const TraceEntry& entry : trace()) {
        // A snapshot's size is what is reserved, which may be nothing yet.
        wrong += entry.size_ == 0 && entry.action_ != TraceEntry::SNAPSHOT;
      }
    }
  });
  std::thread switcher([&] {
    for (int i = 0; !stop; ++i) {
      record_memory_history(i % 2 ? options(100 + i % 50) : MemoryHistoryOptions(), i % 7 == 0);
    }
  });
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t] {
      OpenRegStream stream = other_stream();
      for (int i = 0; i < 500; ++i) {
        DataPtr a = allocate(512 * (1 + (i * 7 + t) % 40), stream.handle());
        DataPtr b = allocate(64 * KiB, stream.handle(), i % 2 ? Order::Issue : Order::Execution);
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  stop = true;
  reader.join();
  switcher.join();
  EXPECT_EQ(wrong.load(), 0);
  record_memory_history(MemoryHistoryOptions(), /*clear_history=*/true);
  allocator().emptyCache();
  EXPECT_EQ(CountedContext::alive.load(), 0);
  check_consistency();
}

ALLOCATOR_TEST(CachingOffFromManyThreads) {
  CachingAllocator::set_caching(false);
  EXPECT(!CachingAllocator::is_caching());
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([] {
      OpenRegStream stream = other_stream();
      for (int i = 0; i < 100; ++i) {
        DataPtr ptr = allocate(2 * MiB, stream.handle());
        fill(stream.handle(), ptr, 4 * KiB, i);
        verify(stream.handle(), ptr, 4 * KiB, i);
      }
      stream.synchronize();
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  CachingAllocator::set_caching(false); // releases what the last frees left in use
  EXPECT_EQ(current(stats().reserved_bytes), 0);
  EXPECT_EQ(wrong.load(), 0);
  CachingAllocator::set_caching(true);
}

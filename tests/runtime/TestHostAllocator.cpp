// csrc/runtime's caching allocator of pinned host memory.

#include <sys/wait.h>
#include <unistd.h>

#include "RuntimeTest.h"
#include "runtime/HostAllocator.h"

using namespace test;
using at::openreg::get_host_allocator;
using at::openreg::is_pinned;

namespace {

bool record(const DataPtr& ptr, OpenRegStream stream) {
  return at::openreg::record_event(const_cast<void*>(ptr.get()), ptr.get_context(), stream);
}

} // namespace

TEST(PinnedMemory) {
  EXPECT(at::getHostAllocator(at::kPrivateUse1) == get_host_allocator());
  for (size_t size : {1, 63, 1000, 5000, 3 << 20}) {
    DataPtr ptr = get_host_allocator()->allocate(size);
    EXPECT(ptr.device() == c10::Device(c10::DeviceType::CPU));
    EXPECT(reinterpret_cast<uintptr_t>(ptr.get()) % 64 == 0);
    memset(ptr.get(), 1, size);
    EXPECT(is_pinned(ptr.get()));
    EXPECT(is_pinned(static_cast<char*>(ptr.get()) + size - 1));
  }
  EXPECT(get_host_allocator()->allocate(0).get() == nullptr);
  char pageable;
  EXPECT(!is_pinned(&pageable));
  EXPECT(!is_pinned(nullptr));
  EXPECT(!is_pinned(allocator().allocate(512).get()));
  EXPECT(orPeekAtLastError() == orSuccess);
}

TEST(PinnedMemoryIsReused) {
  DataPtr a = get_host_allocator()->allocate(1000);
  const void* address = a.get();
  a.clear();
  a = get_host_allocator()->allocate(600);
  EXPECT(a.get() == address);
  a.clear();
  EXPECT(is_pinned(address));
  get_host_allocator()->empty_cache();
  EXPECT(!is_pinned(address));
}

TEST(PinnedMemoryWaitsForStreams) {
  const OpenRegStream first = other_stream(), second = other_stream(1);
  Blocked one(first.handle()), two(second.handle());
  DataPtr a = get_host_allocator()->allocate(1000);
  const void* address = a.get();
  EXPECT(record(a, first));
  EXPECT(record(a, second));
  a.clear();
  EXPECT(get_host_allocator()->allocate(1000).get() != address);
  two.finish();
  DataPtr b = get_host_allocator()->allocate(1000);
  EXPECT(b.get() != address);
  one.finish();
  EXPECT(get_host_allocator()->allocate(1000).get() == address);

  char pageable;
  EXPECT(!record(DataPtr(&pageable, c10::DeviceType::CPU), first));
}

// A copy's error must reach the user, not an allocation.
TEST(PinnedMemoryLeavesErrorsAlone) {
  const OpenRegStream stream = other_stream();
  DataPtr a = get_host_allocator()->allocate(1000);
  OK(launch(stream.handle(), "fails", [](const orLaunchContext* context) {
    return orKernelFail(context, orErrorLaunchValue, "bad value");
  }));
  record(a, stream);
  a.clear();
  while (!get_host_allocator()->allocate(1000)) {
  }
  get_host_allocator()->empty_cache();
  RAISES(stream.synchronize(), c10::ValueError, "bad value");
}

TEST(PinnedMemoryOfDestroyedStream) {
  orStream_t external;
  OK(orStreamCreate(&external));
  Gate gate;
  OK(launch(external, "waits", [&] { gate.wait(); }));
  DataPtr a = get_host_allocator()->allocate(1000);
  const void* address = a.get();
  record(a, c10::openreg::get_external_stream(external, 0));
  a.clear();
  EXPECT(get_host_allocator()->allocate(1000).get() != address);
  OK(orStreamDestroy(external));
  gate.open();
  get_host_allocator()->empty_cache();
  EXPECT(!is_pinned(address));
}

TEST(PinnedMemoryStatistics) {
  DataPtr a = get_host_allocator()->allocate(1000);
  DataPtr b = get_host_allocator()->allocate(5000);
  auto stats = get_host_allocator()->get_stats();
  EXPECT_EQ(stats.active_requests.current, 2);
  EXPECT_EQ(stats.active_bytes.current, 1024 + 8192);
  EXPECT_EQ(stats.allocated_bytes.current, 1024 + 8192);
  EXPECT_EQ(stats.num_host_alloc, 2);
  EXPECT_EQ(stats.host_alloc_time.count, 2);
  a.clear();
  get_host_allocator()->empty_cache();
  stats = get_host_allocator()->get_stats();
  EXPECT_EQ(stats.active_bytes.current, 8192);
  EXPECT_EQ(stats.active_bytes.peak, 1024 + 8192);
  EXPECT_EQ(stats.num_host_free, 1);
  EXPECT_EQ(stats.host_free_time.count, 1);
  get_host_allocator()->reset_peak_stats();
  get_host_allocator()->reset_accumulated_stats();
  stats = get_host_allocator()->get_stats();
  EXPECT_EQ(stats.active_bytes.peak, 8192);
  EXPECT_EQ(stats.num_host_alloc, 0);
}

TEST(PinnedMemoryInForkedChild) {
  DataPtr a = get_host_allocator()->allocate(1000);
  const pid_t child = fork();
  if (child == 0) {
    a.clear();
    RAISES(get_host_allocator()->allocate(8), c10::Error, "forked subprocess");
    _exit(0);
  }
  int status = -1;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
}

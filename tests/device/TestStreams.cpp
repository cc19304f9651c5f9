#include <sys/resource.h>
#include <unistd.h>

#include <memory>
#include <thread>

#include "Test.h"

using namespace test;

TEST(LaunchesReturnAtOnceAndRunInOrder) {
  orStream_t stream;
  OK(orStreamCreate(&stream));
  Gate gate;
  std::vector<int> order;
  OK(launch(stream, "gate", [&] { gate.wait(); }));
  for (int i = 0; i < 100; ++i) {
    OK(launch(stream, "append", [&order, i] { order.push_back(i); }));
  }
  // All issued, none has run: this thread did not wait for the gate.
  uint64_t issued, completed;
  OK(orStreamGetProgress(stream, &issued, &completed));
  EXPECT_EQ(issued, uint64_t(101));
  EXPECT_EQ(completed, uint64_t(0));
  EXPECT_EQ(orStreamQuery(stream), orErrorNotReady);
  gate.open();
  OK(orStreamSynchronize(stream));
  OK(orStreamQuery(stream));
  EXPECT_EQ(order.size(), size_t(100));
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(order[i], i);
  }
  OK(orStreamGetProgress(stream, &issued, &completed));
  EXPECT_EQ(completed, uint64_t(101));
  OK(orStreamDestroy(stream));
}

TEST(StreamsRunAtTheSameTime) {
  orStream_t a, b;
  OK(orStreamCreate(&a));
  OK(orStreamCreate(&b));
  Gate first, second;
  // Each needs the other to be running.
  OK(launch(a, "a", [&] {
    second.open();
    first.wait();
  }));
  OK(launch(b, "b", [&] {
    first.open();
    second.wait();
  }));
  OK(orStreamSynchronize(a));
  OK(orStreamSynchronize(b));
}

TEST(DestroyedStreamRunsWhatIsQueued) {
  Gate gate;
  auto token = std::make_shared<int>(0);
  std::atomic<int> count{0};
  orStream_t stream;
  OK(orStreamCreate(&stream));
  OK(launch(stream, "gate", [&] { gate.wait(); }));
  for (int i = 0; i < 1000; ++i) {
    OK(launch(stream, "count", [&count, token] { count++; }));
  }
  OK(orStreamDestroy(stream)); // returns at once
  EXPECT_EQ(count.load(), 0);
  FAILS(launch(stream, "late", [] {}), orErrorInvalidResourceHandle, "destroyed");
  FAILS(orStreamQuery(stream), orErrorInvalidResourceHandle, "destroyed");
  FAILS(orStreamDestroy(stream), orErrorInvalidResourceHandle, "destroyed");
  gate.open();
  OK(orDeviceSynchronize()); // waits for destroyed streams, too
  EXPECT_EQ(count.load(), 1000);
  EXPECT_EQ(token.use_count(), 1l);
}

TEST(StaleAndForeignHandles) {
  orStream_t stale, stream;
  OK(orStreamCreate(&stale));
  OK(orStreamDestroy(stale));
  OK(orStreamCreate(&stream)); // takes the same place
  EXPECT(stream != stale);
  FAILS(orStreamSynchronize(stale), orErrorInvalidResourceHandle, "destroyed");
  OK(orStreamSynchronize(stream));
  int local = 0;
  orEvent_t event;
  OK(orEventCreate(&event, 0));
  void* garbage[] = {&local, event, reinterpret_cast<void*>(0x5),
                     reinterpret_cast<void*>(0xdeadbeefcafe5),
                     reinterpret_cast<void*>(~uintptr_t(0))};
  for (void* handle : garbage) {
    FAILS(orStreamQuery(static_cast<orStream_t>(handle)), orErrorInvalidResourceHandle,
          "does not exist");
  }
  FAILS(orEventQuery(reinterpret_cast<orEvent_t>(stream)), orErrorInvalidResourceHandle,
        "does not exist");
  orStream_t standard;
  OK(orDeviceGetDefaultStream(&standard, 0));
  FAILS(orStreamDestroy(standard), orErrorInvalidResourceHandle, "default stream");
  FAILS(orStreamDestroy(nullptr), orErrorInvalidResourceHandle, "default stream");
}

TEST(IdsAreUnique) {
  std::vector<uint64_t> ids;
  for (int i = 0; i < 100; ++i) {
    orStream_t stream;
    OK(orStreamCreate(&stream));
    uint64_t id = 0;
    OK(orStreamGetId(stream, &id));
    EXPECT(id != 0);
    for (uint64_t other : ids) {
      EXPECT(id != other);
    }
    ids.push_back(id);
    OK(orStreamDestroy(stream));
  }
}

TEST(Priorities) {
  int least, greatest;
  OK(orDeviceGetStreamPriorityRange(&least, &greatest));
  EXPECT_EQ(least, 0);
  EXPECT_EQ(greatest, -1);
  for (auto [asked, given] : {std::pair{-5, -1}, {-1, -1}, {0, 0}, {3, 0}}) {
    orStream_t stream;
    OK(orStreamCreateWithPriority(&stream, orStreamNonBlocking, asked));
    int priority = 99;
    OK(orStreamGetPriority(stream, &priority));
    EXPECT_EQ(priority, given);
    int ran = 0;
    OK(launch(stream, "run", [&] { ran = 1; }));
    OK(orStreamSynchronize(stream));
    EXPECT_EQ(ran, 1);
    OK(orStreamDestroy(stream));
  }
  orStream_t stream;
  FAILS(orStreamCreateWithPriority(&stream, 77, 0), orErrorInvalidValue, "flags");
}

TEST(FullQueueHoldsTheProducerBack) {
  orStream_t stream;
  OK(orStreamCreate(&stream));
  Gate gate;
  OK(launch(stream, "gate", [&] { gate.wait(); }));
  std::atomic<uint64_t> issued{0};
  constexpr uint64_t kCount = 5000; // of 1 KiB: several times the queue
  std::vector<uint64_t> seen;
  seen.reserve(kCount);
  std::thread producer([&] {
    for (uint64_t i = 0; i < kCount; ++i) {
      struct {
        char bytes[1000];
      } payload = {};
      payload.bytes[999] = static_cast<char>(i);
      OK(launch(stream, "fill", [&seen, payload, i] {
        EXPECT_EQ(payload.bytes[999], static_cast<char>(i));
        seen.push_back(i);
      }));
      issued++;
    }
  });
  // The producer comes to a stop long before the end: it stays where it is
  // while the worker does.
  uint64_t before;
  do {
    before = issued.load();
    usleep(50000);
  } while (before != issued.load());
  EXPECT(before > 0);
  EXPECT(before < kCount);
  EXPECT(seen.empty());
  gate.open();
  producer.join();
  OK(orStreamSynchronize(stream));
  EXPECT_EQ(seen.size(), size_t(kCount));
  for (uint64_t i = 0; i < kCount; ++i) {
    EXPECT_EQ(seen[i], i);
  }
}

TEST(SeveralProducersOnAFullQueue) {
  orStream_t stream;
  OK(orStreamCreate(&stream));
  std::vector<std::pair<int, int>> seen; // written by the worker alone
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      char payload[1500] = {};
      for (int i = 0; i < 1000; ++i) {
        struct Copy {
          char bytes[1500];
        } copy;
        memcpy(copy.bytes, payload, sizeof(payload));
        OK(launch(stream, "p", [&seen, copy, t, i] { seen.emplace_back(t, i); }));
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  OK(orStreamSynchronize(stream));
  EXPECT_EQ(seen.size(), size_t(4000));
  int next[4] = {};
  for (auto [t, i] : seen) {
    EXPECT_EQ(i, next[t]);
    next[t]++;
  }
}

TEST(HostFunctions) {
  orStream_t stream;
  OK(orStreamCreate(&stream));
  static std::vector<int> order;
  Gate gate;
  OK(launch(stream, "gate", [&] { gate.wait(); }));
  OK(launch(stream, "kernel", [] { order.push_back(1); }));
  static std::thread::id host_thread;
  int two = 2;
  OK(orLaunchHostFunc(
      stream,
      [](void* user) {
        order.push_back(*static_cast<int*>(user));
        host_thread = std::this_thread::get_id();
      },
      &two));
  OK(launch(stream, "kernel", [] { order.push_back(3); }));
  EXPECT(order.empty());
  gate.open();
  OK(orStreamSynchronize(stream));
  EXPECT(order == (std::vector<int>{1, 2, 3}));
  EXPECT(host_thread != std::this_thread::get_id());
  FAILS(orLaunchHostFunc(stream, nullptr, nullptr), orErrorInvalidValue, "function is NULL");
}

TEST(WaitingForOneselfIsRefused) {
  orStream_t stream;
  OK(orStreamCreate(&stream));
  void* memory;
  OK(orMalloc(&memory, 16));
  OK(launch(stream, "self", [=] {
    FAILS(orStreamSynchronize(stream), orErrorNotSupported, "wait for itself");
    FAILS(orDeviceSynchronize(), orErrorNotSupported, "wait for itself");
    FAILS(orFree(memory), orErrorNotSupported, "wait for itself");
  }));
  OK(orStreamSynchronize(stream));
}

TEST(WorkFillingItsOwnQueueIsRefused) {
  orStream_t stream;
  OK(orStreamCreate(&stream));
  std::atomic<int> ran{0};
  OK(launch(stream, "filler", [&, stream] {
    orError_t error = orSuccess;
    int accepted = 0;
    while (error == orSuccess && accepted < 1000000) {
      error = launch(stream, "more", [&] { ran++; });
      accepted += error == orSuccess;
    }
    EXPECT_EQ(error, orErrorNotSupported);
  }));
  OK(orStreamSynchronize(stream));
  OK(orStreamSynchronize(stream)); // what the filler queued
  EXPECT(ran.load() > 1000);
}

TEST(ManyThreadsWaitForDifferentPoints) {
  orStream_t stream;
  OK(orStreamCreate(&stream));
  Gate gates[8];
  std::vector<std::thread> waiters;
  std::atomic<int> woken{0};
  for (int i = 0; i < 8; ++i) {
    OK(launch(stream, "gate", [&gates, i] { gates[i].wait(); }));
    orEvent_t event;
    OK(orEventCreate(&event, orEventDisableTiming));
    OK(orEventRecord(event, stream));
    waiters.emplace_back([&, event, i] {
      OK(orEventSynchronize(event));
      EXPECT_EQ(woken.load(), i);
      woken++;
    });
  }
  for (int i = 0; i < 8; ++i) {
    gates[i].open();
    waiters[i].join();
    EXPECT_EQ(woken.load(), i + 1);
  }
}

TEST(IdleDeviceUsesNoProcessor) {
  for (int d = 0; d < 2; ++d) {
    OK(orSetDevice(d));
    for (int i = 0; i < 4; ++i) {
      orStream_t stream;
      OK(orStreamCreate(&stream));
      OK(launch(stream, "work", [] {}));
      OK(orStreamSynchronize(stream));
    }
  }
  auto processorTime = [] {
    rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec +
           (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
  };
  usleep(20000);
  double before = processorTime();
  usleep(500000);
  EXPECT(processorTime() - before < 0.02); // sanitizers have a thread, too
}

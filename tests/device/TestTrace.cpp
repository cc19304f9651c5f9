#include <map>
#include <thread>

#include "Test.h"

using namespace test;

namespace {

struct Log {
  std::mutex mutex;
  std::vector<orTraceRecord> records;
  std::vector<std::vector<orMemoryRange>> ranges;

  static void callback(const orTraceRecord* record, void* user) {
    auto* log = static_cast<Log*>(user);
    std::lock_guard<std::mutex> guard(log->mutex);
    log->records.push_back(*record);
    log->ranges.emplace_back(record->ranges, record->ranges + record->range_count);
  }
};

} // namespace

TEST(TraceIsCompleteAndOrdered) {
  Log log;
  uint64_t subscription;
  OK(orTraceSubscribe(&subscription, orTraceAll, Log::callback, &log));
  orStream_t a, b;
  OK(orStreamCreate(&a));
  OK(orStreamCreate(&b));
  uint64_t id_a;
  OK(orStreamGetId(a, &id_a));
  orEvent_t event;
  OK(orEventCreate(&event, orEventDisableTiming));
  void* memory;
  OK(orMalloc(&memory, 4096));
  char host[16] = {};
  OK(launch(a, "kernel", [] {}));
  OK(launch(a, "failing", [](const orLaunchContext* context) {
    return orKernelFail(context, orErrorLaunchValue, "x");
  }));
  OK(orMemsetAsync(memory, 1, 100, a));
  OK(orMemcpyAsync(memory, host, 16, orMemcpyHostToDevice, a));
  OK(orLaunchHostFunc(a, [](void*) {}, nullptr));
  OK(orEventRecord(event, a));
  OK(orStreamWaitEvent(b, event, 0));
  FAILS(orStreamSynchronize(a), orErrorLaunchValue, "failing");
  OK(orEventSynchronize(event));
  OK(orDeviceSynchronize());
  OK(orMemcpy(host, memory, 16, orMemcpyDeviceToHost));
  OK(orFree(memory));
  OK(orTraceUnsubscribe(subscription));
  size_t count = log.records.size();
  OK(launch(a, "unseen", [] {}));
  OK(orStreamSynchronize(a));
  EXPECT_EQ(log.records.size(), count);

  // Work: enqueue, begin, end of the same number, in this order and time.
  std::map<uint64_t, std::vector<orTraceRecord>> work;
  std::map<std::string, int> names;
  for (const orTraceRecord& record : log.records) {
    if (record.correlation) {
      work[record.correlation].push_back(record);
    }
    if (record.phase == orTraceEnqueue) {
      names[record.name]++;
    }
  }
  EXPECT_EQ(work.size(), size_t(8));
  for (auto& [correlation, records] : work) {
    EXPECT_EQ(records.size(), size_t(3));
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(int(records[i].phase), i);
      EXPECT_EQ(int(records[i].kind), int(records[0].kind));
      EXPECT(!strcmp(records[i].name, records[0].name));
      EXPECT(i == 0 || records[i].time >= records[i - 1].time);
      EXPECT_EQ(records[i].stream, records[0].stream);
    }
    EXPECT_EQ(records[2].error,
              strcmp(records[0].name, "failing") ? orSuccess : orErrorLaunchValue);
    if (records[0].kind == orTraceMemset) {
      EXPECT(records[1].pointer == memory);
      EXPECT_EQ(records[1].size, size_t(100));
      EXPECT_EQ(records[1].stream, id_a);
    }
  }
  for (const char* name : {"kernel", "failing", "memset", "memcpyHtoD", "memcpyDtoH", "hostFunc",
                           "eventRecord", "eventWait", "malloc", "free"}) {
    EXPECT_EQ(names[name], 1);
  }
  // Waits of the host.
  std::vector<std::string> waits;
  for (const orTraceRecord& record : log.records) {
    if (record.kind == orTraceSync) {
      waits.push_back(std::string(record.name) + (record.phase == orTraceBegin ? "+" : "-"));
      bool failing = waits.back() == "streamSynchronize-";
      EXPECT_EQ(record.error, failing ? orErrorLaunchValue : orSuccess);
    }
  }
  EXPECT(waits == (std::vector<std::string>{"streamSynchronize+", "streamSynchronize-",
                                            "eventSynchronize+", "eventSynchronize-",
                                            "deviceSynchronize+", "deviceSynchronize-"}));
  // One after the other on a stream.
  uint64_t last_end = 0;
  for (const orTraceRecord& record : log.records) {
    if (record.stream == id_a && record.correlation && record.phase == orTraceBegin) {
      EXPECT(record.time >= last_end);
    } else if (record.stream == id_a && record.phase == orTraceEnd && record.correlation) {
      last_end = record.time;
    }
  }
}

TEST(RangesAreAskedOnlyWhileTraced) {
  static int asked = 0;
  struct Kernel {
    char* base;
  };
  static const orClosureType type = {
      sizeof(Kernel),
      alignof(Kernel),
      nullptr,
      [](void*, const orLaunchContext*) { return orSuccess; },
      nullptr,
      [](const void* closure, orMemoryRange* ranges, size_t capacity) {
        asked++;
        for (size_t i = 0; i < 20 && i < capacity; ++i) {
          ranges[i] = {static_cast<const Kernel*>(closure)->base + i, i, i == 19};
        }
        return size_t(20); // more than the first guess
      }};
  void* memory;
  OK(orMalloc(&memory, 64));
  Kernel kernel{static_cast<char*>(memory)};
  OK(orLaunch(nullptr, "quiet", &type, &kernel));
  OK(orStreamSynchronize(nullptr));
  EXPECT_EQ(asked, 0);
  Log log;
  uint64_t subscription;
  OK(orTraceSubscribe(&subscription, orTraceKernel, Log::callback, &log));
  OK(orLaunch(nullptr, "watched", &type, &kernel));
  OK(orStreamSynchronize(nullptr));
  OK(orTraceUnsubscribe(subscription));
  EXPECT(asked > 0);
  EXPECT_EQ(log.records.size(), size_t(3)); // no sync, no malloc: not subscribed
  EXPECT_EQ(log.ranges[0].size(), size_t(20));
  EXPECT(log.ranges[0][19].base == kernel.base + 19);
  EXPECT_EQ(log.ranges[0][19].is_write, 1);
  EXPECT_EQ(log.ranges[1].size(), size_t(0));
}

TEST(SeveralSubscribers) {
  static std::vector<int> order;
  auto callback = [](const orTraceRecord*, void* user) {
    order.push_back(*static_cast<int*>(user));
  };
  int numbers[3] = {1, 2, 3};
  uint64_t subscriptions[3];
  OK(orTraceSubscribe(&subscriptions[0], orTraceAlloc, callback, &numbers[0]));
  OK(orTraceSubscribe(&subscriptions[1], orTraceFree, callback, &numbers[1]));
  OK(orTraceSubscribe(&subscriptions[2], orTraceAlloc | orTraceFree, callback, &numbers[2]));
  void* memory;
  OK(orMalloc(&memory, 64));
  EXPECT(order == (std::vector<int>{1, 3}));
  OK(orFree(memory));
  EXPECT(order == (std::vector<int>{1, 3, 2, 3}));
  OK(orTraceUnsubscribe(subscriptions[0]));
  OK(orMalloc(&memory, 64));
  EXPECT(order == (std::vector<int>{1, 3, 2, 3, 3}));
  FAILS(orTraceUnsubscribe(subscriptions[0]), orErrorInvalidValue, "does not exist");
  FAILS(orTraceSubscribe(&subscriptions[0], 0, callback, nullptr), orErrorInvalidValue, "kinds");
  FAILS(orTraceSubscribe(&subscriptions[0], 1, nullptr, nullptr), orErrorInvalidValue, "callback");
}

TEST(UnsubscribedIsSilent) {
  // Workers trace without a pause while subscriptions come and go.
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&] {
      orStream_t stream;
      OK(orStreamCreate(&stream));
      while (!stop) {
        for (int i = 0; i < 50; ++i) {
          OK(launch(stream, "work", [] {}));
        }
        OK(orStreamSynchronize(stream));
      }
    });
  }
  long total = 0;
  for (int i = 0; i < 100 || total == 0; ++i) {
    struct State {
      std::atomic<bool> live{true};
      std::atomic<long> calls{0};
    } state;
    uint64_t subscription;
    OK(orTraceSubscribe(
        &subscription, orTraceKernel,
        [](const orTraceRecord*, void* user) {
          auto* state = static_cast<State*>(user);
          EXPECT(state->live.load());
          state->calls++;
        },
        &state));
    std::this_thread::yield();
    OK(orTraceUnsubscribe(subscription));
    state.live = false; // and its memory is gone with the next turn
    total += state.calls;
  }
  stop = true;
  for (auto& thread : threads) {
    thread.join();
  }
}

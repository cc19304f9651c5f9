#include <random>
#include <thread>

#include "Test.h"

using namespace test;

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr int kRounds = 150;
#else
constexpr int kRounds = 1000;
#endif

// Eight threads, each with four streams, half of them on the second device. A
// thread passes a buffer round its streams by events; every kernel checks that
// it sees what the kernel before it left, all of it, and adds one. All threads
// also use one shared stream, whose order is checked a thread at a time.
TEST(EightThreadsFourStreams) {
  constexpr int kThreads = 8;
  constexpr int kStreams = 4;
  static constexpr size_t kWords = 256;
  orStream_t shared;
  OK(orStreamCreate(&shared));
  std::vector<int> shared_next(kThreads); // by the shared stream's worker
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      OK(orSetDevice(t % 2));
      orStream_t streams[kStreams];
      orEvent_t events[kStreams];
      for (int i = 0; i < kStreams; ++i) {
        OK(orStreamCreateWithPriority(&streams[i], 0, -(i % 2)));
        OK(orEventCreate(&events[i], i % 2 ? orEventDefault : orEventDisableTiming));
      }
      void* memory;
      OK(orMalloc(&memory, kWords * sizeof(uint64_t)));
      OK(orMemset(memory, 0, kWords * sizeof(uint64_t)));
      int at = 0;
      uint64_t value = 0;
      for (int round = 0; round < kRounds; ++round) {
        for (unsigned n = random() % 4; n > 0; --n) {
          uint64_t expected = value++;
          OK(launch(streams[at], "increment", [memory, expected] {
            auto* words = backing<uint64_t>(memory);
            for (size_t i = 0; i < kWords; ++i) {
              EXPECT_EQ(words[i], expected);
              words[i]++;
            }
          }));
        }
        int next = random() % kStreams;
        OK(orEventRecord(events[at], streams[at]));
        OK(orStreamWaitEvent(streams[next], events[at], 0));
        at = next;
        OK(launch(shared, "shared", [&shared_next, t, round] {
          EXPECT_EQ(shared_next[t], round);
          shared_next[t]++;
        }));
        switch (random() % 32) {
          case 0:
            OK(orStreamSynchronize(streams[at]));
            EXPECT_EQ(backing<uint64_t>(memory)[kWords - 1], value);
            break;
          case 1: {
            std::vector<uint64_t> host(kWords);
            OK(orMemcpyAsync(host.data(), memory, kWords * 8, orMemcpyDeviceToHost, streams[at]));
            EXPECT_EQ(host[0], value);
            EXPECT_EQ(host[kWords - 1], value);
            break;
          }
          case 2: {
            void* other;
            OK(orMallocAsync(&other, 1000, streams[at]));
            OK(orMemsetAsync(other, 1, 1000, streams[at]));
            OK(orFreeAsync(other, streams[at]));
            break;
          }
          case 3: {
            int victim = (at + 1) % kStreams; // everything of it is awaited
            OK(orStreamDestroy(streams[victim]));
            OK(orStreamCreate(&streams[victim]));
            break;
          }
          case 4:
            OK(orEventDestroy(events[at]));
            OK(orEventCreate(&events[at], orEventDefault));
            break;
          default:
            break;
        }
      }
      OK(orStreamSynchronize(streams[at]));
      for (size_t i = 0; i < kWords; ++i) {
        EXPECT_EQ(backing<uint64_t>(memory)[i], value);
      }
      OK(orFree(memory));
      for (int i = 0; i < kStreams; ++i) {
        OK(orEventDestroy(events[i]));
        OK(orStreamDestroy(streams[i]));
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  OK(orStreamSynchronize(shared));
  for (int t = 0; t < kThreads; ++t) {
    EXPECT_EQ(shared_next[t], kRounds);
  }
}

// Launch and wait at once, over and over: a lost wake-up would hang here.
TEST(SleepAndWakeRaces) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([t] {
      orStream_t stream;
      OK(orStreamCreate(&stream));
      std::mt19937 random(t);
      int count = 0;
      for (int i = 0; i < 5 * kRounds; ++i) {
        int* counter = &count;
        OK(launch(stream, "count", [counter] { ++*counter; }));
        // Pauses around the time that a worker takes to fall asleep.
        for (volatile unsigned n = random() % 3000; n > 0; n = n - 1) {
        }
        if (random() % 2) {
          OK(orStreamSynchronize(stream));
          EXPECT_EQ(count, i + 1);
        }
      }
      OK(orStreamSynchronize(stream));
      EXPECT_EQ(count, 5 * kRounds);
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
}

TEST(StreamsComeAndGo) {
  std::vector<std::thread> threads;
  std::atomic<int> ran{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < kRounds / 10; ++i) {
        orStream_t stream;
        OK(orStreamCreate(&stream));
        for (int n = 0; n < 3; ++n) {
          OK(launch(stream, "work", [&] { ran++; }));
        }
        OK(orStreamDestroy(stream));
      }
    });
  }
  for (int i = 0; i < 20; ++i) {
    OK(orDeviceSynchronize());
  }
  for (auto& thread : threads) {
    thread.join();
  }
  OK(orDeviceSynchronize());
  EXPECT_EQ(ran.load(), 4 * (kRounds / 10) * 3);
}

// The order in which threads let go of a stream must not matter.
TEST(DestroyedWhileOthersUseIt) {
  for (int round = 0; round < kRounds / 10; ++round) {
    orStream_t stream;
    OK(orStreamCreate(&stream));
    std::atomic<int> ran{0}, accepted{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 2; ++t) {
      threads.emplace_back([&] {
        for (int i = 0; i < 2000; ++i) {
          struct {
            char bytes[1000];
          } padding = {};
          if (launch(stream, "work", [&ran, padding] { ran += 1 + padding.bytes[0]; }) !=
              orSuccess) {
            EXPECT_EQ(orGetLastError(), orErrorInvalidResourceHandle);
            return;
          }
          accepted++;
        }
      });
    }
    threads.emplace_back([&] {
      orError_t error = orStreamSynchronize(stream);
      EXPECT(error == orSuccess || error == orErrorInvalidResourceHandle);
    });
    while (accepted < 100) {
      std::this_thread::yield();
    }
    OK(orStreamDestroy(stream));
    for (auto& thread : threads) {
      thread.join();
    }
    OK(orDeviceSynchronize());
    EXPECT_EQ(ran.load(), accepted.load());
  }
}

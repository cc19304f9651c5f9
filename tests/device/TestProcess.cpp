#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "Test.h"

using namespace test;

namespace {

int inFork(void (*function)()) {
  pid_t pid = fork();
  if (pid == 0) {
    function();
    _exit(0);
  }
  int status = -1;
  waitpid(pid, &status, 0);
  return status;
}

} // namespace

TEST(ForkedChildIsRefused) {
  void* memory;
  OK(orMalloc(&memory, 64));
  OK(launch(nullptr, "work", [] {}));
  OK(orStreamSynchronize(nullptr));
  EXPECT_EQ(inFork([] {
              void* memory;
              int count;
              size_t size;
              orStream_t stream;
              orEvent_t event;
              FAILS(orMalloc(&memory, 64), orErrorForked, "spawn");
              FAILS(orGetDeviceCount(&count), orErrorForked, "fork");
              FAILS(orGetDevice(&count), orErrorForked, "fork");
              FAILS(orSetDevice(0), orErrorForked, "fork");
              FAILS(orMemGetInfo(&size, &size), orErrorForked, "fork");
              FAILS(orStreamCreate(&stream), orErrorForked, "fork");
              FAILS(orEventCreate(&event, 0), orErrorForked, "fork");
              FAILS(orDeviceSynchronize(), orErrorForked, "fork");
              FAILS(launch(nullptr, "x", [] {}), orErrorForked, "fork");
              EXPECT_EQ(orGetLastError(), orErrorForked);
            }),
            0);
  OK(launch(nullptr, "work", [] {})); // the parent goes on
  OK(orStreamSynchronize(nullptr));
}

TEST(NoKernelHoldsALockDuringAFork) {
  static std::mutex& mutex = *new std::mutex();
  orStream_t other;
  OK(orStreamCreate(&other));
  for (int round = 0; round < 50; ++round) {
    for (int i = 0; i < 40; ++i) {
      OK(launch(i % 2 ? other : nullptr, "locks", [] {
        std::lock_guard<std::mutex> guard(mutex);
        usleep(100);
      }));
    }
    EXPECT_EQ(inFork([] {
                alarm(10); // instead of a hang
                std::lock_guard<std::mutex> guard(mutex);
              }),
              0);
  }
  OK(orDeviceSynchronize());
}

TEST(ForkDoesNotWaitForAWorkerThatWaits) {
  static Gate& gate = *new Gate();
  orStream_t stream, waiting;
  orEvent_t event;
  OK(orStreamCreate(&stream));
  OK(orStreamCreate(&waiting));
  OK(orEventCreate(&event, 0));
  OK(launch(stream, "blocks", [] { gate.wait(); }));
  gate.waitForArrivals(1);
  OK(orEventRecord(event, stream));
  OK(orStreamWaitEvent(waiting, event, 0));
  // The blocking kernel is given up after a while; the child starts anyway.
  EXPECT_EQ(inFork([] {}), 0);
  gate.open();
  OK(orDeviceSynchronize());
}

TEST(ForkBeforeInitialisationIsFine) {
  int count;
  OK(orGetDeviceCount(&count));
  EXPECT_EQ(inFork([] {
              void* memory;
              OK(orMalloc(&memory, 64));
              OK(orMemset(memory, 1, 64));
            }),
            0);
  void* memory;
  OK(orMalloc(&memory, 64));
}

CHILD(ChildExitsWithSleepingWorkers) {
  for (int i = 0; i < 3; ++i) {
    orStream_t stream;
    OK(orStreamCreate(&stream));
    OK(launch(stream, "work", [] {}));
    OK(orStreamSynchronize(stream));
  }
}

namespace {

// Destroyed in exit(), after the device's own handler: uses the device late.
struct LateUser {
  ~LateUser() {
    if (!memory) {
      return;
    }
    orFree(memory);
    orStreamSynchronize(nullptr);
    for (int i = 0; i < 100000; ++i) {
      if (launch(nullptr, "late", [] {}) != orSuccess) {
        break; // the queue is full and will stay so
      }
    }
    fprintf(stderr, "late user done\n");
  }
  void* memory = nullptr;
} lateUser;

std::atomic<bool> destructorsRun{false};
struct Marker {
  ~Marker() {
    destructorsRun = true;
  }
} marker;

} // namespace

CHILD(ChildExitsWithWork) {
  OK(orMalloc(&lateUser.memory, 64));
  orStream_t a, b;
  OK(orStreamCreate(&a));
  OK(orStreamCreate(&b));
  for (int i = 0; i < 1000; ++i) {
    OK(launch(a, "busy", [] {
      usleep(1000);
      // Would be code of a library whose statics are gone.
      EXPECT(!destructorsRun.load());
    }));
  }
  orEvent_t event;
  OK(orEventCreate(&event, 0));
  OK(orEventRecord(event, a));
  OK(orStreamWaitEvent(b, event, 0)); // this worker waits for the other
  OK(launch(nullptr, "pending", [] { usleep(10000); }));
}

CHILD(ChildExitsWithAHungKernel) {
  static Gate& never = *new Gate(); // its destructor would wait for the kernel
  OK(launch(nullptr, "hung", [] { never.wait(); }));
  never.waitForArrivals(1);
}

TEST(ExitNeitherCrashesNorHangs) {
  Outcome outcome = runChild("ChildExitsWithSleepingWorkers");
  EXPECT_EQ(outcome.status, 0);
  EXPECT(outcome.errors.empty());
  outcome = runChild("ChildExitsWithWork");
  EXPECT_EQ(outcome.status, 0);
  EXPECT(outcome.errors == "late user done\n");
  outcome = runChild("ChildExitsWithAHungKernel");
  EXPECT_EQ(outcome.status, 0);
}

TEST(ManyShortProcessesEndWell) {
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(runChild("ChildExitsWithSleepingWorkers").status, 0);
  }
}

TEST(FirstUseByManyThreads) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([] {
      void* memory;
      OK(orMalloc(&memory, 64));
      int value = 0;
      OK(launch(nullptr, "first", [&] { value = 1; }));
      OK(orStreamSynchronize(nullptr));
      EXPECT_EQ(value, 1);
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
}

#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <memory>
#include <thread>

#include "Test.h"
#include "openreg_watchdog.h"

using namespace test;

namespace {

void waitUntilDone(orStream_t stream) {
  uint64_t issued, completed;
  do {
    OK(orStreamGetProgress(stream, &issued, &completed)); // fails for no error
    usleep(1000);
  } while (issued != completed);
}

// Ends with the calling thread's device as idle as if nothing had happened.
void expectRecovered(orStream_t stream) {
  waitUntilDone(stream);
  int value = 0;
  OK(launch(stream, "after", [&] { value = 1; }));
  OK(orDeviceSynchronize());
  EXPECT_EQ(value, 1);
}

// What the watchdog writes.
class Errors {
 public:
  Errors() : saved_(dup(STDERR_FILENO)) {
    EXPECT(pipe(ends_) == 0);
    dup2(ends_[1], STDERR_FILENO);
  }
  std::string readUntil(const char* text) {
    std::string all;
    while (all.find(text) == std::string::npos) {
      char buffer[4096];
      ssize_t count = read(ends_[0], buffer, sizeof(buffer));
      EXPECT(count > 0);
      all.append(buffer, count);
    }
    dup2(saved_, STDERR_FILENO);
    return all;
  }

 private:
  int saved_;
  int ends_[2];
};

} // namespace

TEST(LaunchTimeoutIsParsed) {
  auto set = [](const char* value) { setenv("OPENREG_LAUNCH_TIMEOUT", value, 1); };
  uint64_t limit = 1;
  OK(orGetLaunchTimeout(&limit));
  EXPECT_EQ(limit, uint64_t(0));
  const std::pair<const char*, uint64_t> good[] = {{"0", 0},          {"", 0},
                                                   {"2", 2000000000}, {"0.25", 250000000},
                                                   {".5", 500000000}, {"1e-3", 1000000}};
  for (auto [value, expected] : good) {
    set(value);
    OK(orGetLaunchTimeout(&limit));
    EXPECT_EQ(limit, expected);
  }
  for (const char* value : {"soon", "-1", "1s", "nan", "inf", "1e9", " 1"}) {
    set(value);
    FAILS(orGetLaunchTimeout(&limit), orErrorInitialization, "OPENREG_LAUNCH_TIMEOUT: expected");
    FAILS(orDeviceSynchronize(), orErrorInitialization, "OPENREG_LAUNCH_TIMEOUT: expected");
    EXPECT(strstr(orGetLastErrorMessage(), value));
  }
  FAILS(orGetLaunchTimeout(nullptr), orErrorInvalidValue, "nanoseconds is NULL");
}

TEST_ENV(WorkThatHangsIsAnError, "OPENREG_LAUNCH_TIMEOUT=0.1") {
  Gate gate;
  void* memory;
  OK(orMalloc(&memory, 64));
  orStream_t other;
  OK(orStreamCreate(&other));
  orEvent_t event;
  OK(orEventCreate(&event, 0));
  std::atomic<int> later{0};
  OK(launch(nullptr, "hung", [&] { gate.wait(); }));
  OK(launch(nullptr, "next", [&] { later++; }));
  OK(orEventRecord(event, nullptr));
  FAILS(orStreamSynchronize(nullptr), orErrorLaunchTimeout, "hung: still runs after 0.");
  EXPECT(std::string(orGetErrorName(orGetLastError())) == "orErrorLaunchTimeout");
  // While it runs the device is of no use, and nobody waits for it.
  for (int i = 0; i < 2; ++i) {
    FAILS(orDeviceSynchronize(), orErrorLaunchTimeout, "hung: ");
    FAILS(orEventSynchronize(event), orErrorLaunchTimeout, "hung: ");
    FAILS(orStreamQuery(other), orErrorLaunchTimeout, "hung: ");
    FAILS(orFree(memory), orErrorLaunchTimeout, "hung: ");
    FAILS(orMemset(memory, 0, 64), orErrorLaunchTimeout, "hung: ");
    FAILS(orDeviceReset(), orErrorLaunchTimeout, "hung: ");
    auto token = std::make_shared<int>(0);
    FAILS(launch(other, "refused", [token] { EXPECT(false); }), orErrorLaunchTimeout, "hung: ");
    EXPECT_EQ(token.use_count(), 1l);
  }
  OK(orSetDevice(1)); // another device goes on
  OK(launch(nullptr, "fine", [] {}));
  OK(orDeviceSynchronize());
  OK(orSetDevice(0));
  EXPECT_EQ(later.load(), 0);
  gate.open();
  expectRecovered(nullptr);
  EXPECT_EQ(later.load(), 1); // what was queued has run, in its order
  OK(orEventSynchronize(event));
  OK(orFree(memory));
}

TEST_ENV(WhoWaitsAlreadyIsWoken, "OPENREG_LAUNCH_TIMEOUT=0.3") {
  static Gate gate;
  static orStream_t stream, other;
  static orEvent_t event;
  static void* memory;
  static void* pinned;
  OK(orMalloc(&memory, 64));
  OK(orHostAlloc(&pinned, 64, 0));
  OK(orStreamCreate(&stream));
  OK(orStreamCreate(&other));
  OK(orEventCreate(&event, orEventDisableTiming));
  OK(launch(stream, "hung", [] { gate.wait(); }));
  OK(orEventRecord(event, stream));
  OK(orStreamWaitEvent(other, event, 0));
  gate.waitForArrivals(1);
  std::vector<std::thread> waiting;
  for (orError_t (*call)() :
       {+[] { return orStreamSynchronize(stream); }, +[] { return orStreamSynchronize(other); },
        +[] { return orEventSynchronize(event); }, +[] { return orDeviceSynchronize(); },
        +[] { return orFree(memory); }, +[] { return orFreeHost(pinned); },
        +[] {
          // Until the queue is full, and then until there is room.
          std::array<char, 2000> large{};
          orError_t error = orSuccess;
          while (error == orSuccess) {
            error = launch(stream, "more", [large] { (void)large; });
          }
          return error;
        }}) {
    waiting.emplace_back([call] { FAILS(call(), orErrorLaunchTimeout, "hung: still runs"); });
  }
  for (std::thread& thread : waiting) {
    thread.join();
  }
  gate.open();
  waitUntilDone(other);
  expectRecovered(stream);
  OK(orFree(memory)); // was refused, not lost
  OK(orFreeHost(pinned));
}

TEST_ENV(AHangThatEndsUnnoticedIsReportedOnce, "OPENREG_LAUNCH_TIMEOUT=0.05") {
  Gate gate;
  Errors errors;
  OK(launch(nullptr, "slow", [&] { gate.wait(); }));
  std::string report = errors.readUntil("need it fail.\n");
  EXPECT(report.find("openreg watchdog: slow: still runs after") == 0);
  EXPECT(report.find("device 0, stream ") != std::string::npos);
  gate.open();
  waitUntilDone(nullptr);
  FAILS(orDeviceSynchronize(), orErrorLaunchTimeout, "slow: ");
  OK(orDeviceSynchronize());
}

TEST_ENV(StreamsThatWaitForAHangHangToo, "OPENREG_LAUNCH_TIMEOUT=0.1") {
  Gate gate;
  std::atomic<int> stage{0};
  orEvent_t first, second;
  OK(orEventCreate(&first, orEventDisableTiming));
  OK(launch(nullptr, "hung", [&] {
    gate.wait();
    stage = 1;
  }));
  OK(orEventRecord(first, nullptr));
  OK(orSetDevice(1));
  orStream_t a, b;
  OK(orStreamCreate(&a));
  OK(orStreamCreate(&b));
  OK(orEventCreate(&second, orEventDisableTiming));
  OK(orStreamWaitEvent(a, first, 0));
  OK(orEventRecord(second, a));
  OK(orStreamWaitEvent(b, second, 0)); // at second hand
  int seen = 0;
  OK(launch(b, "after", [&] { seen = stage; }));
  FAILS(orStreamSynchronize(b), orErrorLaunchTimeout,
        "a stream of device 1 waits for work that hangs: hung: still runs");
  FAILS(orDeviceSynchronize(), orErrorLaunchTimeout, "hung: ");
  gate.open();
  waitUntilDone(b);
  EXPECT_EQ(seen, 1); // nothing ran out of order
  expectRecovered(a);
  OK(orSetDevice(0));
  FAILS(orDeviceSynchronize(), orErrorLaunchTimeout, "hung: "); // not told to device 0 before
  expectRecovered(nullptr);
}

TEST_ENV(WaitingLongForWorkThatGoesOnIsNoHang, "OPENREG_LAUNCH_TIMEOUT=1") {
  orStream_t waiting;
  orEvent_t event;
  OK(orStreamCreate(&waiting));
  OK(orEventCreate(&event, 0));
  for (int i = 0; i < 12; ++i) { // together longer than the limit
    OK(launch(nullptr, "nap", [] { usleep(100000); }));
  }
  OK(orEventRecord(event, nullptr));
  OK(orStreamWaitEvent(waiting, event, 0));
  OK(orStreamSynchronize(waiting));
  OK(orDeviceSynchronize());
}

TEST_ENV(AHangStaysIfErrorsDo, "OPENREG_LAUNCH_TIMEOUT=0.1 OPENREG_STICKY_ERRORS=1") {
  Gate gate;
  OK(launch(nullptr, "hung", [&] { gate.wait(); }));
  FAILS(orDeviceSynchronize(), orErrorLaunchTimeout, "hung: ");
  gate.open();
  waitUntilDone(nullptr);
  FAILS(orDeviceSynchronize(), orErrorLaunchTimeout, "hung: ");
  FAILS(launch(nullptr, "next", [] {}), orErrorLaunchTimeout, "hung: ");
  OK(orDeviceReset());
  expectRecovered(nullptr);
}

TEST_ENV(ABlockingLaunchThatHangsReturns, "OPENREG_LAUNCH_TIMEOUT=0.1 OPENREG_LAUNCH_BLOCKING=1") {
  Gate gate;
  FAILS(launch(nullptr, "hung", [&] { gate.wait(); }), orErrorLaunchTimeout, "hung: ");
  gate.open();
  expectRecovered(nullptr);
}

TEST_ENV(ANodeOfAGraphThatHangsIsNamed, "OPENREG_LAUNCH_TIMEOUT=0.1") {
  Gate gate;
  orStream_t stream;
  orGraph_t graph;
  orGraphExec_t exec;
  OK(orStreamCreate(&stream));
  OK(orStreamBeginCapture(stream, orStreamCaptureModeGlobal));
  OK(launch(stream, "first", [] {}));
  OK(launch(stream, "hung_node", [&] { gate.wait(); }));
  OK(launch(stream, "last", [] {}));
  OK(orStreamEndCapture(stream, &graph));
  OK(orGraphInstantiate(&exec, graph));
  OK(orGraphLaunch(exec, stream));
  FAILS(orStreamSynchronize(stream), orErrorLaunchTimeout, "hung_node: still runs");
  EXPECT(strstr(orGetLastErrorMessage(), "part of a graph"));
  gate.open();
  expectRecovered(stream);
}

namespace {

std::atomic<int> origins{0};
std::atomic<int> gathered{0};

const orLaunchOriginType originType = {[]() -> void* {
                                         origins++;
                                         return new int(++gathered);
                                       },
                                       [](const void* origin, char* text, size_t capacity) {
                                         int number = *static_cast<const int*>(origin);
                                         return static_cast<size_t>(
                                             snprintf(text, capacity, "  origin %d\n", number));
                                       },
                                       [](void* origin) {
                                         origins--;
                                         delete static_cast<int*>(origin);
                                       }};

} // namespace

TEST_ENV(TheOriginOfAHangIsDescribed, "OPENREG_LAUNCH_TIMEOUT=0.1") {
  orLaunchOriginType broken = originType;
  broken.describe = nullptr;
  FAILS(orSetLaunchOrigin(&broken), orErrorInvalidValue, "type->describe is NULL");
  OK(orSetLaunchOrigin(&originType));
  Gate gate;
  orEvent_t event;
  OK(orEventCreate(&event, 0));
  for (int i = 0; i < 100; ++i) {
    OK(launch(nullptr, "short", [] {}));
    OK(orEventRecord(event, nullptr)); // has no origin
  }
  OK(launch(nullptr, "hung", [&] { gate.wait(); }));
  FAILS(orDeviceSynchronize(), orErrorLaunchTimeout, "\n  origin 101\n");
  gate.open();
  waitUntilDone(nullptr);
  OK(orSetLaunchOrigin(nullptr));
  expectRecovered(nullptr);
  EXPECT_EQ(gathered.load(), 101);
  EXPECT_EQ(origins.load(), 0);
}

CHILD(ChildExitsWithAReportedHang) {
  static Gate& never = *new Gate();
  OK(launch(nullptr, "hung", [] { never.wait(); }));
  FAILS(orDeviceSynchronize(), orErrorLaunchTimeout, "hung: ");
}

TEST(ExitDoesNotWaitForAHang) {
  Outcome outcome = runChild("ChildExitsWithAReportedHang", "OPENREG_LAUNCH_TIMEOUT=0.1");
  EXPECT_EQ(outcome.status, 0);
  EXPECT(outcome.errors.find("openreg watchdog: hung: ") == 0);
}

TEST_ENV(AForkedChildHasNoWatchdog, "OPENREG_LAUNCH_TIMEOUT=0.1") {
  static Gate& gate = *new Gate();
  OK(launch(nullptr, "hung", [] { gate.wait(); }));
  gate.waitForArrivals(1);
  pid_t pid = fork();
  if (pid == 0) {
    uint64_t limit;
    FAILS(orGetLaunchTimeout(&limit), orErrorForked, "fork");
    FAILS(launch(nullptr, "x", [] {}), orErrorForked, "fork");
    exit(0);
  }
  int status = -1;
  waitpid(pid, &status, 0);
  EXPECT_EQ(status, 0);
  FAILS(orDeviceSynchronize(), orErrorLaunchTimeout, "hung: "); // the parent's goes on
  gate.open();
  expectRecovered(nullptr);
}

TEST_ENV(WatchedWorkOfManyThreads, "OPENREG_LAUNCH_TIMEOUT=0.001") {
  // Some of it may be reported: the limit is far below what a busy machine needs.
  OK(orSetLaunchOrigin(&originType));
  freopen("/dev/null", "w", stderr);
  orStream_t streams[2];
  for (orStream_t& stream : streams) {
    OK(orStreamCreate(&stream));
  }
  std::atomic<int> ran{0};
  std::atomic<int> accepted{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      orEvent_t event;
      EXPECT(orEventCreate(&event, t % 2 ? orEventDisableTiming : orEventDefault) == orSuccess);
      for (int i = 0; i < 300; ++i) {
        int naps = i % 50 == 0 ? 1500 : 0;
        accepted += launch(streams[(i + t) % 2], "work", [&ran, naps] {
                      usleep(naps);
                      ran++;
                    }) == orSuccess;
        (void)orEventRecord(event, streams[i % 2]);
        (void)orStreamWaitEvent(streams[(i + 1) % 2], event, 0);
        if (i % 20 == 0) {
          (void)orEventSynchronize(event);
        }
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  for (orStream_t stream : streams) {
    waitUntilDone(stream);
  }
  (void)orDeviceSynchronize();
  EXPECT_EQ(ran.load(), accepted.load());
  while (origins) { // the watchdog may be reading one
    usleep(1000);
  }
  OK(orDeviceSynchronize());
}

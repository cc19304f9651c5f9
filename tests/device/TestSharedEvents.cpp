#include <dirent.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "Test.h"
#include "openreg_ipc.h"
#include "openreg_watchdog.h"

using namespace test;

namespace {

// What two processes tell each other, in memory that they share.
struct Board {
  std::atomic<int> stage;
  orIpcEventHandle handle;
  int value;

  void waitFor(int wanted) {
    while (stage < wanted) {
      usleep(500);
    }
  }
};

// Of the parent, with the setting that gives it to a child.
Board* newBoard(std::string* environment) {
  void* shared;
  int file;
  OK(orMallocShared(&shared, sizeof(Board), &file));
  OK(orMemset(shared, 0, sizeof(Board)));
  *environment = "SHARED_FILE=" + std::to_string(dup(file)); // without close-on-exec
  close(file);
  return backing<Board>(shared);
}

Board* inheritedBoard() {
  void* shared;
  size_t size;
  OK(orOpenShared(&shared, atoi(getenv("SHARED_FILE")), &size));
  return backing<Board>(shared);
}

orEvent_t newEvent() {
  orEvent_t event;
  OK(orEventCreate(&event, orEventDisableTiming | orEventInterprocess));
  return event;
}

int openFiles() {
  int count = 0;
  DIR* folder = opendir("/proc/self/fd");
  while (readdir(folder)) {
    count++;
  }
  closedir(folder);
  return count;
}

} // namespace

CHILD(ChildTakesPart) {
  Board* board = inheritedBoard();
  orEvent_t event;
  OK(orIpcOpenEventHandle(&event, &board->handle));
  EXPECT_EQ(orEventQuery(event), orErrorNotReady);
  int seen = 0;
  OK(orStreamWaitEvent(nullptr, event, 0));
  OK(launch(nullptr, "read", [&] { seen = board->value; }));
  board->stage = 1;
  OK(orEventSynchronize(event));
  OK(orEventQuery(event));
  OK(orStreamSynchronize(nullptr));
  EXPECT_EQ(seen, 7);
  // The other way round, with the same event.
  Gate gate;
  OK(launch(nullptr, "write", [&] {
    gate.wait();
    board->value = 8;
  }));
  OK(orEventRecord(event, nullptr));
  board->stage = 2;
  board->waitFor(3);
  gate.open();
  OK(orEventSynchronize(event));
  OK(orEventDestroy(event));
}

TEST(EventsOrderWorkOfTwoProcesses) {
  std::string environment;
  Board* board = newBoard(&environment);
  orEvent_t event = newEvent();
  OK(orIpcGetEventHandle(&board->handle, event));
  OK(orEventQuery(event)); // never recorded
  Gate gate;
  OK(launch(nullptr, "write", [&] {
    gate.wait();
    board->value = 7;
  }));
  OK(orEventRecord(event, nullptr));
  Outcome outcome{};
  std::thread child([&] { outcome = runChild("ChildTakesPart", environment.c_str()); });
  board->waitFor(1);
  gate.open();
  board->waitFor(2);
  EXPECT_EQ(orEventQuery(event), orErrorNotReady); // the child's record
  orStream_t stream;
  OK(orStreamCreate(&stream));
  int seen = 0;
  OK(orStreamWaitEvent(stream, event, 0));
  OK(launch(stream, "read", [&] { seen = board->value; }));
  board->stage = 3;
  OK(orEventSynchronize(event));
  OK(orStreamSynchronize(stream));
  EXPECT_EQ(seen, 8);
  child.join();
  EXPECT_EQ(outcome.status, 0);
  OK(orEventQuery(event)); // reached before the child ended
}

CHILD(ChildRecordsAndIsKilled) {
  Board* board = inheritedBoard();
  static Gate& never = *new Gate();
  orEvent_t event = newEvent();
  OK(launch(nullptr, "hung", [] { never.wait(); }));
  OK(orEventRecord(event, nullptr));
  OK(orIpcGetEventHandle(&board->handle, event));
  board->stage = 1;
  board->waitFor(2);
  raise(SIGKILL);
}

TEST(AKilledRecorderIsAnErrorAndNoHang) {
  std::string environment;
  Board* board = newBoard(&environment);
  Outcome outcome{};
  std::thread child([&] { outcome = runChild("ChildRecordsAndIsKilled", environment.c_str()); });
  board->waitFor(1);
  orEvent_t event;
  OK(orIpcOpenEventHandle(&event, &board->handle));
  EXPECT_EQ(orEventQuery(event), orErrorNotReady);
  int ran = 0;
  OK(orStreamWaitEvent(nullptr, event, 0));
  OK(launch(nullptr, "behind", [&] { ran = 1; }));
  std::thread waiter(
      [&] { FAILS(orEventSynchronize(event), orErrorProcessDied, "died before it was reached"); });
  board->stage = 2;
  waiter.join();
  child.join();
  EXPECT_EQ(outcome.status, SIGKILL);
  FAILS(orStreamSynchronize(nullptr), orErrorProcessDied, "eventWait: process ");
  OK(orStreamSynchronize(nullptr)); // reported once, as any failed launch
  EXPECT_EQ(ran, 1);
  FAILS(orEventQuery(event), orErrorProcessDied, "orEventQuery: process ");
  // A new record mends the event.
  OK(orEventRecord(event, nullptr));
  OK(orEventSynchronize(event));
  OK(orEventQuery(event));
  // And its maker's handle has gone with it.
  orEvent_t again;
  FAILS(orIpcOpenEventHandle(&again, &board->handle), orErrorInvalidResourceHandle, "is no more");
}

TEST_ENV(AnEventThatAnotherProcessDoesNotReachIsLate, "OPENREG_LAUNCH_TIMEOUT=0.2") {
  std::string environment;
  Board* board = newBoard(&environment);
  Outcome outcome{};
  std::thread child([&] {
    std::string settings = environment + " OPENREG_LAUNCH_TIMEOUT=0";
    outcome = runChild("ChildRecordsAndIsKilled", settings.c_str());
  });
  board->waitFor(1);
  orEvent_t event;
  OK(orIpcOpenEventHandle(&event, &board->handle));
  FAILS(orEventSynchronize(event), orErrorLaunchTimeout, "is not reached after 0.2 s");
  OK(orDeviceSynchronize()); // no work of this process is late
  OK(orStreamWaitEvent(nullptr, event, 0));
  FAILS(orStreamSynchronize(nullptr), orErrorLaunchTimeout, "eventWait: still runs after");
  board->stage = 2;
  child.join();
  uint64_t issued, completed;
  do {
    OK(orStreamGetProgress(nullptr, &issued, &completed));
  } while (issued != completed);
  FAILS(orStreamSynchronize(nullptr), orErrorProcessDied, "eventWait: process ");
  OK(orDeviceSynchronize());
}

CHILD(ChildRecordsWithoutEnd) {
  Board* board = inheritedBoard();
  orEvent_t event;
  OK(orIpcOpenEventHandle(&event, &board->handle));
  for (;;) {
    OK(orEventRecord(event, nullptr));
    board->stage = 1;
  }
}

TEST(ARecorderKilledAtAnyPointLeavesTheEventUsable) {
  std::string environment;
  for (int round = 0; round < 5; ++round) {
    Board* board = newBoard(&environment);
    orEvent_t event = newEvent();
    OK(orIpcGetEventHandle(&board->handle, event));
    pid_t pid = fork();
    if (pid == 0) {
      setenv("SHARED_FILE", environment.c_str() + strlen("SHARED_FILE="), 1);
      execl("/proc/self/exe", "device_tests", "ChildRecordsWithoutEnd", nullptr);
      _exit(127);
    }
    board->waitFor(1);
    for (int i = 0; i < 50 * round; ++i) { // both at the same time
      OK(orEventRecord(event, nullptr));
    }
    kill(pid, SIGKILL);
    for (int i = 0; i < 300; ++i) {
      OK(orEventRecord(event, nullptr));
    }
    OK(orEventSynchronize(event));
    waitpid(pid, nullptr, 0);
    OK(orEventDestroy(event));
    OK(orDeviceSynchronize());
  }
}

TEST(RecordsBeyondThePageWaitForRoom) {
  Gate gate;
  orEvent_t event = newEvent();
  OK(launch(nullptr, "gate", [&] { gate.wait(); }));
  std::thread recorder([&] {
    for (int i = 0; i < 500; ++i) {
      OK(orEventRecord(event, nullptr));
    }
  });
  uint64_t issued = 0, completed;
  while (issued < 129) { // the gate and 128 records
    OK(orStreamGetProgress(nullptr, &issued, &completed));
  }
  EXPECT_EQ(issued, uint64_t(129));
  gate.open();
  recorder.join();
  OK(orEventSynchronize(event));
}

TEST(SharedEventsWorkWithinAProcess) {
  int files = openFiles();
  orEvent_t event = newEvent();
  orStream_t stream;
  OK(orStreamCreate(&stream));
  Gate gate;
  std::atomic<int> value{0};
  int seen = -1;
  OK(launch(nullptr, "gate", [&] {
    gate.wait();
    value = 1;
  }));
  OK(orEventRecord(event, nullptr));
  OK(orStreamWaitEvent(stream, event, 0));
  OK(launch(stream, "read", [&] { seen = value; }));
  EXPECT_EQ(orEventQuery(event), orErrorNotReady);
  OK(orEventDestroy(event)); // what is queued is not affected
  gate.open();
  OK(orDeviceSynchronize());
  EXPECT_EQ(seen, 1);
  EXPECT_EQ(openFiles(), files);
}

TEST(SharedEventsRefuseWhatTheyCannotDo) {
  orEvent_t event, other;
  orIpcEventHandle handle;
  FAILS(orEventCreate(&event, orEventInterprocess), orErrorInvalidValue, "keep no time");
  OK(orEventCreate(&event, orEventDisableTiming));
  FAILS(orIpcGetEventHandle(&handle, event), orErrorInvalidResourceHandle,
        "without orEventInterprocess");
  event = newEvent();
  FAILS(orIpcGetEventHandle(nullptr, event), orErrorInvalidValue, "handle is NULL");
  OK(orIpcGetEventHandle(&handle, event));
  FAILS(orIpcOpenEventHandle(&other, &handle), orErrorInvalidResourceHandle, "of this process");
  FAILS(orIpcOpenEventHandle(&other, nullptr), orErrorInvalidValue, "handle is NULL");
  FAILS(orIpcOpenEventHandle(nullptr, &handle), orErrorInvalidValue, "event is NULL");
  memset(&handle, 1, sizeof(handle));
  FAILS(orIpcOpenEventHandle(&other, &handle), orErrorInvalidValue, "orIpcGetEventHandle");
  float milliseconds;
  OK(orEventRecord(event, nullptr));
  FAILS(orEventElapsedTime(&milliseconds, event, event), orErrorInvalidResourceHandle,
        "keeps no time");
  // A capture cannot wait for a record from outside.
  orStream_t stream;
  OK(orStreamCreate(&stream));
  OK(orStreamBeginCapture(stream, orStreamCaptureModeRelaxed));
  EXPECT_EQ(orStreamWaitEvent(stream, event, 0), orErrorStreamCaptureIsolation);
  orGraph_t graph;
  EXPECT(orStreamEndCapture(stream, &graph) != orSuccess);
}

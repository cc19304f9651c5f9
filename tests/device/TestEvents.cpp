#include <unistd.h>

#include <thread>

#include "Test.h"

using namespace test;

namespace {

struct TwoStreams {
  TwoStreams() {
    OK(orStreamCreate(&a));
    OK(orStreamCreate(&b));
  }
  orStream_t a, b;
};

} // namespace

TEST(WaitOrdersTwoStreams) {
  for (unsigned flags : {orEventDefault, orEventDisableTiming}) {
    TwoStreams s;
    Gate gate;
    orEvent_t event;
    OK(orEventCreate(&event, flags));
    int value = 0; // unguarded: the event orders the accesses
    OK(launch(s.a, "produce", [&] {
      gate.wait();
      value = 42;
    }));
    OK(orEventRecord(event, s.a));
    OK(orStreamWaitEvent(s.b, event, 0));
    int got = 0;
    OK(launch(s.b, "consume", [&] { got = value; }));
    EXPECT_EQ(orEventQuery(event), orErrorNotReady);
    EXPECT_EQ(orStreamQuery(s.b), orErrorNotReady);
    gate.open();
    OK(orStreamSynchronize(s.b));
    EXPECT_EQ(got, 42);
    OK(orEventQuery(event));
    OK(orEventDestroy(event));
  }
}

TEST(WaitAcrossDevices) {
  Gate gate;
  orStream_t a, b;
  OK(orStreamCreate(&a));
  OK(orSetDevice(1));
  OK(orStreamCreate(&b));
  orEvent_t event;
  OK(orEventCreate(&event, orEventDisableTiming));
  int value = 0, got = 0;
  OK(launch(a, "produce", [&] {
    gate.wait();
    value = 1;
  }));
  OK(orEventRecord(event, a));
  OK(orStreamWaitEvent(b, event, 0));
  OK(launch(b, "consume", [&] { got = value; }));
  gate.open();
  OK(orStreamSynchronize(b));
  EXPECT_EQ(got, 1);
}

TEST(NeverRecordedIsNotWaitedFor) {
  orEvent_t event;
  OK(orEventCreate(&event, orEventDefault));
  OK(orStreamWaitEvent(nullptr, event, 0));
  OK(orEventQuery(event));
  OK(orEventSynchronize(event));
  OK(orStreamSynchronize(nullptr));
}

TEST(RecordingAgainReplaces) {
  for (unsigned flags : {orEventDefault, orEventDisableTiming}) {
    TwoStreams s;
    orEvent_t event;
    OK(orEventCreate(&event, flags));
    Gate first, second;
    OK(launch(s.a, "first", [&] { first.wait(); }));
    OK(orEventRecord(event, s.a));
    // This wait keeps the first record.
    OK(orStreamWaitEvent(s.b, event, 0));
    bool passed = false;
    OK(launch(s.b, "after first", [&] { passed = true; }));
    OK(launch(s.a, "second", [&] { second.wait(); }));
    OK(orEventRecord(event, s.a));
    first.open();
    OK(orStreamSynchronize(s.b)); // with `second` still closed
    EXPECT(passed);
    EXPECT_EQ(orEventQuery(event), orErrorNotReady);
    second.open();
    OK(orEventSynchronize(event));
    // On another stream, of which everything is done.
    OK(orEventRecord(event, s.b));
    OK(orEventSynchronize(event));
    OK(orStreamSynchronize(s.a));
  }
}

TEST(EventsMayBeDestroyedWhileQueued) {
  TwoStreams s;
  Gate gate;
  int value = 0, got = 0;
  OK(launch(s.a, "gate", [&] {
    gate.wait();
    value = 5;
  }));
  orEvent_t event;
  OK(orEventCreate(&event, orEventDefault));
  OK(orEventRecord(event, s.a));
  OK(orStreamWaitEvent(s.b, event, 0));
  OK(orEventDestroy(event));
  OK(launch(s.b, "read", [&] { got = value; }));
  FAILS(orEventRecord(event, s.a), orErrorInvalidResourceHandle, "destroyed");
  FAILS(orStreamWaitEvent(s.a, event, 0), orErrorInvalidResourceHandle, "destroyed");
  FAILS(orEventDestroy(event), orErrorInvalidResourceHandle, "destroyed");
  FAILS(orEventQuery(nullptr), orErrorInvalidResourceHandle, "does not exist");
  gate.open();
  OK(orStreamSynchronize(s.b));
  EXPECT_EQ(got, 5);
}

TEST(EventOutlivesItsStream) {
  TwoStreams s;
  Gate gate;
  int value = 0, got = 0;
  OK(launch(s.a, "gate", [&] {
    gate.wait();
    value = 5;
  }));
  orEvent_t event;
  OK(orEventCreate(&event, orEventDisableTiming));
  OK(orEventRecord(event, s.a));
  OK(orStreamDestroy(s.a));
  EXPECT_EQ(orEventQuery(event), orErrorNotReady);
  OK(orStreamWaitEvent(s.b, event, 0));
  OK(launch(s.b, "read", [&] { got = value; }));
  // New streams must not be taken for the destroyed one.
  for (int i = 0; i < 10; ++i) {
    orStream_t other;
    OK(orStreamCreate(&other));
    OK(launch(other, "nothing", [] {}));
    OK(orStreamSynchronize(other));
    OK(orStreamDestroy(other));
  }
  EXPECT_EQ(orEventQuery(event), orErrorNotReady);
  gate.open();
  OK(orEventSynchronize(event));
  OK(orStreamSynchronize(s.b));
  EXPECT_EQ(got, 5);
  OK(orEventDestroy(event));
}

TEST(ElapsedTime) {
  orStream_t stream;
  OK(orStreamCreate(&stream));
  orEvent_t start, end, untimed, unused;
  OK(orEventCreate(&start, orEventDefault));
  OK(orEventCreate(&end, orEventDefault));
  OK(orEventCreate(&unused, orEventDefault));
  OK(orEventCreate(&untimed, orEventDisableTiming));
  Gate gate;
  OK(orEventRecord(start, stream));
  OK(launch(stream, "gate", [&] { gate.wait(); }));
  OK(launch(stream, "sleep", [] { usleep(20000); }));
  OK(orEventRecord(end, stream));
  OK(orEventRecord(untimed, stream));
  float milliseconds = -1;
  EXPECT_EQ(orEventElapsedTime(&milliseconds, start, end), orErrorNotReady);
  EXPECT_EQ(milliseconds, -1.0f);
  gate.open();
  OK(orEventSynchronize(end));
  OK(orEventElapsedTime(&milliseconds, start, end));
  EXPECT(milliseconds >= 20.0f);
  EXPECT(milliseconds < 60000.0f);
  OK(orEventElapsedTime(&milliseconds, end, start));
  EXPECT(milliseconds <= -20.0f);
  FAILS(orEventElapsedTime(&milliseconds, start, untimed), orErrorInvalidResourceHandle,
        "end event keeps no time");
  FAILS(orEventElapsedTime(&milliseconds, unused, end), orErrorInvalidResourceHandle,
        "start event was never recorded");
  FAILS(orEventCreate(&unused, 64), orErrorInvalidValue, "flags");
}

TEST(TimeIsTakenOnTheDevice) {
  // The second event is recorded at once, but reached after the kernel.
  orStream_t stream;
  OK(orStreamCreate(&stream));
  orEvent_t start, end;
  OK(orEventCreate(&start, orEventDefault));
  OK(orEventCreate(&end, orEventDefault));
  OK(launch(stream, "before", [] { usleep(30000); }));
  OK(orEventRecord(start, stream));
  OK(orEventRecord(end, stream));
  OK(orStreamSynchronize(stream));
  float milliseconds;
  OK(orEventElapsedTime(&milliseconds, start, end));
  EXPECT(milliseconds >= 0.0f);
}

TEST(ManyThreadsRecordOneEvent) {
  orEvent_t event;
  OK(orEventCreate(&event, orEventDefault));
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      orStream_t stream;
      OK(orStreamCreate(&stream));
      for (int i = 0; i < 500; ++i) {
        OK(orEventRecord(event, stream));
        OK(orStreamWaitEvent(stream, event, 0));
        orError_t error = orEventQuery(event);
        EXPECT(error == orSuccess || error == orErrorNotReady);
      }
      OK(orStreamSynchronize(stream));
      OK(orStreamDestroy(stream));
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  OK(orEventSynchronize(event));
  OK(orEventDestroy(event));
}

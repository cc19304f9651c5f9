#include <memory>
#include <stdexcept>
#include <thread>

#include "Test.h"

using namespace test;

TEST(ErrorNamesAndStrings) {
  EXPECT(!strcmp(orGetErrorName(orErrorInvalidValue), "orErrorInvalidValue"));
  EXPECT(!strcmp(orGetErrorName(orErrorLaunchIndex), "orErrorLaunchIndex"));
  EXPECT(strlen(orGetErrorString(orErrorForked)) > 10);
  EXPECT(orGetErrorName(static_cast<orError_t>(4711)) != nullptr);
  EXPECT(orGetErrorString(static_cast<orError_t>(-1)) != nullptr);
  EXPECT_EQ(orGetApiVersion(), OR_API_VERSION);
}

TEST(LastErrorIsKeptUntilRead) {
  EXPECT_EQ(orGetLastError(), orSuccess);
  FAILS(orSetDevice(7), orErrorInvalidDevice, "device must be a device from 0 to 1, got 7");
  int device;
  OK(orGetDevice(&device)); // success does not clear it
  EXPECT_EQ(orPeekAtLastError(), orErrorInvalidDevice);
  EXPECT_EQ(orGetLastError(), orErrorInvalidDevice);
  EXPECT_EQ(orGetLastError(), orSuccess);
}

TEST(NotReadyIsNoError) {
  Gate gate;
  OK(launch(nullptr, "gate", [&] { gate.wait(); }));
  EXPECT_EQ(orStreamQuery(nullptr), orErrorNotReady);
  EXPECT_EQ(orPeekAtLastError(), orSuccess);
  gate.open();
  OK(orStreamSynchronize(nullptr));
}

TEST(AsynchronousErrorIsReportedOnce) {
  orStream_t stream;
  OK(orStreamCreate(&stream));
  std::atomic<int> later{0};
  OK(launch(stream, "index_select", [](const orLaunchContext* context) {
    return orKernelFail(context, orErrorLaunchIndex, "index 9 is out of range");
  }));
  OK(launch(stream, "next", [&] { later++; })); // runs regardless
  FAILS(orStreamSynchronize(stream), orErrorLaunchIndex, "index_select: index 9 is out of range");
  EXPECT_EQ(later.load(), 1);
  EXPECT_EQ(orGetLastError(), orErrorLaunchIndex);
  OK(orStreamSynchronize(stream));
  OK(orDeviceSynchronize());
}

TEST(FirstOfSeveralErrorsIsKept) {
  for (const char* message : {"first", "second"}) {
    OK(launch(nullptr, "kernel", [=](const orLaunchContext* context) {
      return orKernelFail(context, orErrorLaunchValue, message);
    }));
  }
  FAILS(orDeviceSynchronize(), orErrorLaunchValue, "kernel: first");
  OK(orDeviceSynchronize());
}

TEST(EveryReportingCallReports) {
  orStream_t stream;
  OK(orStreamCreate(&stream));
  orEvent_t event;
  OK(orEventCreate(&event, orEventDisableTiming));
  void* memory;
  OK(orMalloc(&memory, 16));
  char bytes[16] = {};
  auto failLaunch = [&] {
    OK(launch(stream, "bad", [](const orLaunchContext* context) {
      return orKernelFail(context, orErrorLaunchType, "type");
    }));
    OK(orEventRecord(event, stream));
    uint64_t issued = 0, completed = 0;
    do {
      OK(orStreamGetProgress(stream, &issued, &completed)); // never fails
    } while (issued != completed);
  };
  failLaunch();
  FAILS(orStreamQuery(stream), orErrorLaunchType, "bad: type");
  OK(orStreamQuery(stream));
  failLaunch();
  FAILS(orEventQuery(event), orErrorLaunchType, "bad: type");
  OK(orEventQuery(event));
  failLaunch();
  FAILS(orEventSynchronize(event), orErrorLaunchType, "bad: type");
  OK(orEventSynchronize(event));
  failLaunch();
  FAILS(orDeviceSynchronize(), orErrorLaunchType, "bad: type");
  failLaunch();
  // Reported after the copy was made.
  bytes[3] = 7;
  FAILS(orMemcpy(memory, bytes, 16, orMemcpyHostToDevice), orErrorLaunchType, "bad: type");
  EXPECT_EQ(backing<char>(memory)[3], 7);
  // Not by calls that merely queue.
  failLaunch();
  OK(orMemsetAsync(memory, 0, 16, stream));
  OK(launch(stream, "good", [] {}));
  FAILS(orStreamSynchronize(stream), orErrorLaunchType, "bad: type");
}

TEST(ErrorsBelongToTheirDevice) {
  OK(orSetDevice(1));
  OK(launch(nullptr, "bad", [](const orLaunchContext* context) {
    EXPECT_EQ(context->device, 1);
    return orKernelFail(context, orErrorLaunchLinAlg, "singular");
  }));
  OK(orSetDevice(0));
  OK(orDeviceSynchronize());
  OK(orSetDevice(1));
  FAILS(orDeviceSynchronize(), orErrorLaunchLinAlg, "bad: singular");
}

TEST(AnExceptionFailsTheLaunch) {
  OK(launch(nullptr, "thrower", [] { throw std::runtime_error("boom"); }));
  FAILS(orStreamSynchronize(nullptr), orErrorLaunchFailure, "thrower: boom");
  OK(launch(nullptr, "thrower", [] { throw 42; }));
  FAILS(orStreamSynchronize(nullptr), orErrorLaunchFailure, "thrower: ");
  OK(launch(nullptr, "coded", [](const orLaunchContext*) {
    return orErrorLaunchNotImplemented; // without a message
  }));
  FAILS(orStreamSynchronize(nullptr), orErrorLaunchNotImplemented, "coded: ");
  OK(launch(nullptr, "foreign", [](const orLaunchContext*) {
    return orErrorInvalidValue; // no code of a launch
  }));
  FAILS(orStreamSynchronize(nullptr), orErrorLaunchFailure, "foreign: ");
}

TEST(KernelMayFailFromAThreadOfItsOwn) {
  OK(launch(nullptr, "parallel", [](const orLaunchContext* context) {
    orLaunchContext copy = *context; // as who replays a closure would
    std::thread([&] { orKernelFail(&copy, orErrorLaunchValue, "from a helper"); }).join();
  }));
  FAILS(orStreamSynchronize(nullptr), orErrorLaunchValue, "parallel: from a helper");
}

TEST_ENV(StickyErrorStaysUntilReset, "OPENREG_STICKY_ERRORS=1") {
  void* memory;
  OK(orMalloc(&memory, 16));
  OK(launch(nullptr, "bad", [](const orLaunchContext* context) {
    return orKernelFail(context, orErrorLaunchIndex, "out of range");
  }));
  for (int i = 0; i < 2; ++i) {
    FAILS(orDeviceSynchronize(), orErrorLaunchIndex, "bad: out of range");
  }
  // A closure refused for it is destroyed, not leaked and not left to us.
  auto token = std::make_shared<int>(0);
  FAILS(launch(nullptr, "next", [token] { EXPECT(false); }), orErrorLaunchIndex, "bad: ");
  EXPECT_EQ(token.use_count(), 1l);
  void* more;
  FAILS(orMalloc(&more, 16), orErrorLaunchIndex, "bad: ");
  FAILS(orMemsetAsync(memory, 0, 16, nullptr), orErrorLaunchIndex, "bad: ");
  // The other device goes on.
  OK(orSetDevice(1));
  OK(launch(nullptr, "fine", [] {}));
  OK(orDeviceSynchronize());
  OK(orSetDevice(0));
  OK(orDeviceReset());
  OK(launch(nullptr, "fine", [] {}));
  OK(orDeviceSynchronize());
  OK(orMalloc(&more, 16));
}

TEST_ENV(LaunchBlockingReportsAtTheLaunch, "OPENREG_LAUNCH_BLOCKING=1") {
  bool ran = false;
  auto token = std::make_shared<int>(0);
  FAILS(launch(nullptr, "bad",
               [&ran, token](const orLaunchContext* context) {
                 ran = true;
                 return orKernelFail(context, orErrorLaunchValue, "no");
               }),
        orErrorLaunchValue, "bad: no");
  EXPECT(ran);
  EXPECT_EQ(token.use_count(), 1l);
  OK(orStreamSynchronize(nullptr));
  int value = 0;
  OK(launch(nullptr, "good", [&] { value = 1; }));
  EXPECT_EQ(value, 1); // without a synchronize
  orEvent_t event;
  OK(orEventCreate(&event, orEventDefault));
  OK(orEventRecord(event, nullptr));
  OK(orEventQuery(event));
}

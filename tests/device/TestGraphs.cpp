#include <unistd.h>

#include <fstream>
#include <memory>
#include <sstream>
#include <thread>

#include "Test.h"

using namespace test;

namespace {

orStream_t newStream() {
  orStream_t stream;
  OK(orStreamCreateWithPriority(&stream, orStreamNonBlocking, 0));
  return stream;
}

orEvent_t newEvent() {
  orEvent_t event;
  OK(orEventCreate(&event, orEventDisableTiming));
  return event;
}

void begin(orStream_t stream, orStreamCaptureMode mode = orStreamCaptureModeGlobal) {
  OK(orStreamBeginCapture(stream, mode));
}

orGraph_t endCapture(orStream_t stream) {
  orGraph_t graph;
  OK(orStreamEndCapture(stream, &graph));
  return graph;
}

orGraphExec_t instantiate(orGraph_t graph) {
  orGraphExec_t exec;
  OK(orGraphInstantiate(&exec, graph));
  return exec;
}

orStreamCaptureStatus statusOf(orStream_t stream) {
  orStreamCaptureStatus status;
  OK(orStreamIsCapturing(stream, &status));
  return status;
}

// The call fails with the code, and so does the capture's end.
#define INVALIDATES(stream, call, code)                                                            \
  do {                                                                                             \
    begin(stream);                                                                                 \
    EXPECT_EQ(call, code);                                                                         \
    EXPECT_EQ(statusOf(stream), orStreamCaptureStatusInvalidated);                                 \
    FAILS(launch(stream, "late", [] {}), orErrorStreamCaptureInvalidated, "previous error");       \
    orGraph_t graph_ = reinterpret_cast<orGraph_t>(1);                                             \
    EXPECT_EQ(orStreamEndCapture(stream, &graph_), orErrorStreamCaptureInvalidated);               \
    EXPECT(graph_ == nullptr);                                                                     \
    EXPECT_EQ(statusOf(stream), orStreamCaptureStatusNone);                                        \
    OK(launch(stream, "works again", [] {}));                                                      \
    OK(orStreamSynchronize(stream));                                                               \
  } while (0)

} // namespace

TEST(CapturedWorkRunsOnlyWhenLaunched) {
  orStream_t stream = newStream();
  std::vector<int> order;
  EXPECT_EQ(statusOf(stream), orStreamCaptureStatusNone);
  begin(stream);
  EXPECT_EQ(statusOf(stream), orStreamCaptureStatusActive);
  for (int i = 0; i < 3; ++i) {
    OK(launch(stream, "append", [&order, i] { order.push_back(i); }));
  }
  uint64_t issued, completed;
  OK(orStreamGetProgress(stream, &issued, &completed));
  EXPECT_EQ(issued, uint64_t(0));
  orGraph_t graph = endCapture(stream);
  orGraphExec_t exec = instantiate(graph);
  OK(orStreamSynchronize(stream));
  EXPECT(order.empty());

  for (int i = 0; i < 2; ++i) {
    OK(orGraphLaunch(exec, stream));
  }
  OK(orStreamSynchronize(stream));
  EXPECT((order == std::vector<int>{0, 1, 2, 0, 1, 2}));
  OK(orStreamGetProgress(stream, &issued, &completed));
  EXPECT_EQ(issued, uint64_t(2)); // a launch is one piece of work
  OK(orGraphDestroy(graph));
  OK(orGraphLaunch(exec, nullptr)); // the default stream will do, and no graph is needed
  OK(orDeviceSynchronize());
  EXPECT_EQ(order.size(), size_t(9));
  OK(orGraphExecDestroy(exec));
}

TEST(GraphOfCopiesAndFills) {
  orStream_t stream = newStream();
  void *a, *b, *pinned;
  OK(orMalloc(&a, 1024));
  OK(orMalloc(&b, 1024));
  OK(orHostAlloc(&pinned, 1024, 0));
  begin(stream);
  OK(orMemcpyAsync(a, pinned, 1024, orMemcpyHostToDevice, stream));
  OK(orMemsetAsync(a, 7, 512, stream));
  OK(orMemcpyAsync(b, a, 1024, orMemcpyDeviceToDevice, stream));
  OK(orMemcpyAsync(pinned, b, 512, orMemcpyDeviceToHost, stream));
  orGraphExec_t exec = instantiate(endCapture(stream));
  for (int value : {1, 2}) {
    // Read when the graph runs, not when it was captured.
    memset(pinned, value, 1024);
    OK(orGraphLaunch(exec, stream));
    OK(orStreamSynchronize(stream));
    EXPECT_EQ(backing<char>(b)[0], char(7));
    EXPECT_EQ(backing<char>(b)[1023], char(value));
    EXPECT_EQ(static_cast<char*>(pinned)[0], char(7));
  }
}

TEST(SideStreamsJoinThroughEvents) {
  orStream_t stream = newStream(), side = newStream();
  orEvent_t fork = newEvent(), join = newEvent();
  std::vector<int> order;
  begin(stream);
  OK(launch(stream, "first", [&] { order.push_back(0); }));
  OK(orEventRecord(fork, stream));
  EXPECT_EQ(statusOf(side), orStreamCaptureStatusNone);
  OK(orStreamWaitEvent(side, fork, 0));
  uint64_t ids[2];
  orStreamCaptureStatus status;
  OK(orStreamGetCaptureInfo(stream, &status, &ids[0]));
  OK(orStreamGetCaptureInfo(side, &status, &ids[1]));
  EXPECT_EQ(status, orStreamCaptureStatusActive);
  EXPECT_EQ(ids[0], ids[1]);
  OK(launch(side, "side", [&] { order.push_back(1); }));
  OK(launch(stream, "main", [&] { order.push_back(2); }));
  OK(orEventRecord(join, side));
  OK(orStreamWaitEvent(stream, join, 0));
  OK(launch(stream, "last", [&] { order.push_back(3); }));
  orGraph_t graph = endCapture(stream);
  EXPECT_EQ(statusOf(side), orStreamCaptureStatusNone);

  orGraphNode nodes[4];
  size_t count;
  OK(orGraphGetNodes(graph, nodes, 4, &count));
  EXPECT_EQ(count, size_t(4));
  EXPECT_EQ(nodes[0].depends_count, size_t(0));
  EXPECT_EQ(nodes[1].depends[0], size_t(0));
  EXPECT_EQ(nodes[2].depends[0], size_t(0));
  EXPECT_EQ(nodes[3].depends_count, size_t(2));
  EXPECT(nodes[1].stream != nodes[2].stream);
  EXPECT_EQ(strcmp(nodes[1].name, "side"), 0);

  OK(orGraphLaunch(instantiate(graph), stream));
  OK(orStreamSynchronize(stream));
  EXPECT((order == std::vector<int>{0, 1, 2, 3}));
  // The side stream is an ordinary one again.
  OK(launch(side, "eager", [&] { order.push_back(4); }));
  OK(orStreamSynchronize(side));
  EXPECT_EQ(order.size(), size_t(5));
}

TEST(CaptureRulesOfDependencies) {
  orStream_t stream = newStream(), side = newStream(), other = newStream();
  orEvent_t event = newEvent(), outside = newEvent();
  orGraph_t graph;

  // Not joined back.
  begin(stream);
  OK(orEventRecord(event, stream));
  OK(orStreamWaitEvent(side, event, 0));
  OK(launch(side, "side", [] {}));
  FAILS(orStreamEndCapture(stream, &graph), orErrorStreamCaptureUnjoined, "unjoined");
  EXPECT_EQ(statusOf(side), orStreamCaptureStatusNone);

  // Joined, but without work: nothing is left behind.
  begin(stream);
  OK(orEventRecord(event, stream));
  OK(orStreamWaitEvent(side, event, 0));
  OK(orGraphDestroy(endCapture(stream)));

  OK(orEventRecord(outside, other));
  INVALIDATES(stream, orStreamWaitEvent(stream, outside, 0), orErrorStreamCaptureIsolation);
  begin(stream);
  OK(orStreamWaitEvent(stream, newEvent(), 0)); // never recorded: nothing to wait for
  OK(orGraphDestroy(endCapture(stream)));

  orStream_t usual;
  OK(orDeviceGetDefaultStream(&usual, 0));
  INVALIDATES(stream, (orEventRecord(event, stream), orStreamWaitEvent(usual, event, 0)),
              orErrorStreamCaptureImplicit);

  begin(other, orStreamCaptureModeRelaxed);
  INVALIDATES(stream, (orEventRecord(event, stream), orStreamWaitEvent(other, event, 0)),
              orErrorStreamCaptureMerge);
  EXPECT_EQ(orStreamEndCapture(other, &graph), orErrorStreamCaptureInvalidated);

  // The end belongs to the stream of the beginning.
  begin(stream);
  OK(orEventRecord(event, stream));
  OK(orStreamWaitEvent(side, event, 0));
  EXPECT_EQ(orStreamEndCapture(side, &graph), orErrorStreamCaptureUnmatched);
  EXPECT_EQ(orStreamEndCapture(stream, &graph), orErrorStreamCaptureInvalidated);
  FAILS(orStreamEndCapture(stream, &graph), orErrorStreamCaptureUnmatched, "not capturing");

  // The record is worth nothing once its capture is over.
  begin(stream);
  OK(orEventRecord(event, stream));
  OK(orGraphDestroy(endCapture(stream)));
  FAILS(orStreamWaitEvent(side, event, 0), orErrorCapturedEvent, "capture that has ended");
  FAILS(orEventQuery(event), orErrorCapturedEvent, "capturing stream");
  OK(orEventRecord(event, stream));
  OK(orEventSynchronize(event));
}

TEST_ENV(AGraphSpansOneDevice, "OPENREG_DEVICE_COUNT=2") {
  orStream_t stream = newStream();
  orEvent_t event = newEvent();
  OK(orSetDevice(1));
  orStream_t other = newStream();
  INVALIDATES(stream, (orEventRecord(event, stream), orStreamWaitEvent(other, event, 0)),
              orErrorNotSupported);
  begin(stream);
  orGraphExec_t exec = instantiate(endCapture(stream));
  FAILS(orGraphLaunch(exec, other), orErrorInvalidValue, "device 0");
}

TEST(CallsThatCannotBeCaptured) {
  orStream_t stream = newStream();
  orEvent_t event = newEvent();
  void *memory, *pinned;
  char pageable[256] = {};
  OK(orMalloc(&memory, 256));
  OK(orHostAlloc(&pinned, 256, 0));
  INVALIDATES(stream, orStreamSynchronize(stream), orErrorStreamCaptureUnsupported);
  INVALIDATES(stream, orStreamQuery(stream), orErrorStreamCaptureUnsupported);
  INVALIDATES(stream, orDeviceSynchronize(), orErrorStreamCaptureUnsupported);
  INVALIDATES(stream, orDeviceReset(), orErrorStreamCaptureUnsupported);
  INVALIDATES(stream, orStreamDestroy(stream), orErrorStreamCaptureUnsupported);
  INVALIDATES(stream, (orEventRecord(event, stream), orEventSynchronize(event)),
              orErrorCapturedEvent);
  INVALIDATES(stream, (orEventRecord(event, stream), orEventQuery(event)), orErrorCapturedEvent);
  INVALIDATES(stream, orMemcpyAsync(memory, pageable, 256, orMemcpyDefault, stream),
              orErrorStreamCaptureUnsupported);
  INVALIDATES(stream, orMemcpyAsync(pageable, memory, 256, orMemcpyDefault, stream),
              orErrorStreamCaptureUnsupported);
  void* fresh;
  INVALIDATES(stream, orMallocAsync(&fresh, 256, stream), orErrorStreamCaptureUnsupported);
  INVALIDATES(stream, orFreeAsync(memory, stream), orErrorStreamCaptureUnsupported);
  // Dangerous in the capturing thread, whatever they work on.
  INVALIDATES(stream, orMalloc(&fresh, 256), orErrorStreamCaptureUnsupported);
  INVALIDATES(stream, orFree(memory), orErrorStreamCaptureUnsupported);
  INVALIDATES(stream, orFreeHost(pinned), orErrorStreamCaptureUnsupported);
  INVALIDATES(stream, orMemcpy(memory, pinned, 256, orMemcpyDefault),
              orErrorStreamCaptureUnsupported);
  OK(orEventRecord(event, nullptr));
  INVALIDATES(stream, orEventQuery(event), orErrorStreamCaptureUnsupported);
  OK(orFree(memory)); // was not freed by the refused calls
  FAILS(orStreamBeginCapture(nullptr, orStreamCaptureModeGlobal), orErrorStreamCaptureUnsupported,
        "default stream");
  begin(stream);
  FAILS(orStreamBeginCapture(stream, orStreamCaptureModeGlobal), orErrorStreamCaptureUnsupported,
        "already");
  OK(orGraphDestroy(endCapture(stream)));
}

TEST(TheFirstErrorIsTheReason) {
  orStream_t stream = newStream();
  begin(stream);
  orStreamSynchronize(stream);
  orDeviceSynchronize();
  orGraph_t graph;
  FAILS(orStreamEndCapture(stream, &graph), orErrorStreamCaptureInvalidated,
        "orStreamSynchronize: operation not permitted when stream is capturing");
}

TEST(DefaultStreamsWaitForBlockingStreams) {
  orStream_t blocking;
  OK(orStreamCreate(&blocking));
  INVALIDATES(blocking, launch(nullptr, "legacy", [] {}), orErrorStreamCaptureImplicit);
  orStream_t stream = newStream();
  begin(stream);
  bool ran = false;
  OK(launch(nullptr, "eager", [&] { ran = true; })); // not captured
  OK(orGraphDestroy(endCapture(stream)));
  OK(orDeviceSynchronize());
  EXPECT(ran);
}

TEST(ModesOfOtherThreads) {
  orStream_t stream = newStream(), other = newStream();
  auto elsewhere = [&](auto function) {
    orError_t error = orSuccess;
    std::thread([&] { error = function(); }).join();
    return error;
  };
  void* memory;
  auto allocate = [&] { return orMalloc(&memory, 64); };
  auto work = [&] {
    OK(launch(other, "work", [] {}));
    return orStreamSynchronize(other);
  };
  INVALIDATES(stream, elsewhere(allocate), orErrorStreamCaptureUnsupported);
  INVALIDATES(stream, elsewhere(work), orErrorStreamCaptureUnsupported);
  begin(stream);
  OK(elsewhere([&] {
    orStreamCaptureMode mode = orStreamCaptureModeThreadLocal; // not my capture
    OK(orThreadExchangeStreamCaptureMode(&mode));
    EXPECT_EQ(mode, orStreamCaptureModeGlobal);
    return allocate();
  }));
  OK(orGraphDestroy(endCapture(stream)));

  begin(stream, orStreamCaptureModeThreadLocal);
  OK(elsewhere(allocate));
  OK(elsewhere(work));
  EXPECT_EQ(elsewhere([] { return orDeviceSynchronize(); }), orErrorStreamCaptureUnsupported);
  orGraph_t graph;
  EXPECT_EQ(orStreamEndCapture(stream, &graph), orErrorStreamCaptureInvalidated);

  begin(stream, orStreamCaptureModeRelaxed);
  OK(allocate());
  OK(work());
  EXPECT_EQ(elsewhere([&] { return orStreamEndCapture(stream, &graph); }), orSuccess);
  begin(stream, orStreamCaptureModeThreadLocal);
  EXPECT_EQ(elsewhere([&] { return orStreamEndCapture(stream, &graph); }),
            orErrorStreamCaptureWrongThread);
  EXPECT_EQ(orStreamEndCapture(stream, &graph), orErrorStreamCaptureInvalidated);
}

TEST(AnotherThreadWorksWhileOneCaptures) {
  orStream_t stream = newStream(), other = newStream();
  std::atomic<int> captured{0}, eager{0};
  std::atomic<bool> done{false};
  begin(stream, orStreamCaptureModeThreadLocal);
  std::thread worker([&] {
    while (!done) {
      OK(launch(other, "eager", [&] { eager++; }));
      OK(orStreamSynchronize(other));
    }
  });
  for (int i = 0; i < 2000; ++i) {
    OK(launch(stream, "captured", [&] { captured++; }));
  }
  orGraph_t graph = endCapture(stream);
  done = true;
  worker.join();
  EXPECT_EQ(captured.load(), 0);
  OK(orGraphLaunch(instantiate(graph), stream));
  OK(orStreamSynchronize(stream));
  EXPECT_EQ(captured.load(), 2000);
}

TEST(WorkersMayAllocateDuringACapture) {
  orStream_t stream = newStream(), other = newStream();
  Gate gate;
  orError_t error = orErrorNotReady;
  OK(launch(other, "allocates", [&] {
    gate.wait();
    void* memory;
    error = orMalloc(&memory, 64);
  }));
  begin(stream);
  gate.open();
  uint64_t issued, completed = 0;
  while (completed == 0) {
    OK(orStreamGetProgress(other, &issued, &completed));
  }
  OK(error);
  OK(orGraphDestroy(endCapture(stream)));
}

TEST(ClosuresLiveAsLongAsTheGraph) {
  orStream_t stream = newStream();
  auto token = std::make_shared<int>(0);
  Gate gate;
  begin(stream);
  OK(launch(stream, "gate", [&] { gate.wait(); }));
  struct Large {
    char bytes[OR_INLINE_CLOSURE_SIZE];
  } large{};
  for (int i = 0; i < 500; ++i) {
    OK(launch(stream, "count", [token, large] { *token += 1 + large.bytes[*token % 8]; }));
  }
  orGraph_t graph = endCapture(stream);
  orGraphExec_t exec = instantiate(graph);
  EXPECT_EQ(token.use_count(), 501l);
  OK(orGraphLaunch(exec, stream));
  OK(orGraphLaunch(exec, stream));
  gate.waitForArrivals(1);
  // Destroyed while one launch runs and another is queued.
  OK(orGraphDestroy(graph));
  OK(orGraphExecDestroy(exec));
  FAILS(orGraphLaunch(exec, stream), orErrorInvalidResourceHandle, "destroyed");
  FAILS(orGraphDestroy(graph), orErrorInvalidResourceHandle, "destroyed");
  EXPECT_EQ(token.use_count(), 501l);
  gate.open();
  OK(orStreamSynchronize(stream));
  EXPECT_EQ(*token, 1000);
  EXPECT_EQ(token.use_count(), 1l);

  // A capture that fails ends its closures, too.
  begin(stream);
  OK(launch(stream, "held", [token] {}));
  EXPECT_EQ(token.use_count(), 2l);
  orStreamQuery(stream);
  EXPECT_EQ(orStreamEndCapture(stream, &graph), orErrorStreamCaptureInvalidated);
  EXPECT_EQ(token.use_count(), 1l);
}

TEST(FailingNodesAreReported) {
  orStream_t stream = newStream();
  int behind = 0;
  begin(stream);
  OK(launch(stream, "aten::gather", [](const orLaunchContext* context) {
    return orKernelFail(context, orErrorLaunchIndex, "index 7 is out of bounds");
  }));
  OK(launch(stream, "behind", [&] { behind++; }));
  orGraphExec_t exec = instantiate(endCapture(stream));
  OK(orStreamSynchronize(stream)); // nothing has run
  for (int i = 1; i <= 2; ++i) {
    OK(orGraphLaunch(exec, stream));
    FAILS(orStreamSynchronize(stream), orErrorLaunchIndex, "aten::gather: index 7");
    EXPECT_EQ(behind, i);
    OK(orStreamSynchronize(stream));
  }
}

TEST(LaunchesOfAGraphNeverOverlap) {
  orStream_t a = newStream(), b = newStream();
  std::atomic<int> inside{0};
  std::vector<int> runs;
  int number = 0;
  Gate gate;
  begin(a);
  OK(launch(a, "node", [&] {
    EXPECT_EQ(inside++, 0);
    if (number == 0) {
      gate.wait();
    }
    runs.push_back(number++);
    inside--;
  }));
  orGraphExec_t exec = instantiate(endCapture(a));
  OK(orGraphLaunch(exec, a));
  OK(orGraphLaunch(exec, b));
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      for (int j = 0; j < 100; ++j) {
        OK(orGraphLaunch(exec, i % 2 ? a : b));
      }
    });
  }
  gate.open();
  for (std::thread& thread : threads) {
    thread.join();
  }
  OK(orDeviceSynchronize());
  EXPECT_EQ(runs.size(), size_t(402));
}

TEST(LaunchesAreInOrderWithTheStream) {
  orStream_t stream = newStream();
  std::vector<int> order;
  begin(stream);
  OK(launch(stream, "node", [&] { order.push_back(1); }));
  orGraphExec_t exec = instantiate(endCapture(stream));
  OK(launch(stream, "before", [&] { order.push_back(0); }));
  OK(orGraphLaunch(exec, stream));
  OK(launch(stream, "after", [&] { order.push_back(2); }));
  OK(orStreamSynchronize(stream));
  EXPECT((order == std::vector<int>{0, 1, 2}));
}

TEST(GraphsInGraphs) {
  orStream_t stream = newStream();
  std::vector<int> order;
  begin(stream);
  OK(launch(stream, "inner", [&](const orLaunchContext* context) {
    EXPECT_EQ(strcmp(context->name, "inner"), 0);
    order.push_back(1);
  }));
  orGraphExec_t inner = instantiate(endCapture(stream));
  begin(stream);
  OK(launch(stream, "before", [&] { order.push_back(0); }));
  OK(orGraphLaunch(inner, stream));
  OK(launch(stream, "after", [&] { order.push_back(2); }));
  orGraphExec_t outer = instantiate(endCapture(stream));
  OK(orGraphExecDestroy(inner)); // the outer one holds it
  OK(orGraphLaunch(outer, stream));
  OK(orStreamSynchronize(stream));
  EXPECT((order == std::vector<int>{0, 1, 2}));
}

TEST(GraphsAsDot) {
  orStream_t stream = newStream();
  begin(stream);
  OK(launch(stream, "aten::\"add\"", [] {}));
  OK(launch(stream, "aten::mul", [] {}));
  orGraph_t graph = endCapture(stream);
  std::string path = "/tmp/openreg-graph-" + std::to_string(getpid()) + ".dot";
  OK(orGraphDebugDotPrint(graph, path.c_str()));
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  unlink(path.c_str());
  EXPECT(text.str().find("aten::\\\"add\\\"") != std::string::npos);
  EXPECT(text.str().find("n0 -> n1;") != std::string::npos);
  FAILS(orGraphDebugDotPrint(graph, "/nowhere/graph.dot"), orErrorInvalidValue, "/nowhere");
}

TEST(ReplaysAreTraced) {
  struct Log {
    std::vector<orTraceRecord> records;
  } log;
  orStream_t stream = newStream();
  begin(stream);
  OK(launch(stream, "one", [] {}));
  OK(launch(stream, "two", [] {}));
  orGraphExec_t exec = instantiate(endCapture(stream));
  uint64_t subscription;
  OK(orTraceSubscribe(
      &subscription, orTraceKernel | orTraceGraph,
      [](const orTraceRecord* record, void* user) {
        static_cast<Log*>(user)->records.push_back(*record);
      },
      &log));
  OK(orGraphLaunch(exec, stream));
  OK(orStreamSynchronize(stream));
  OK(orTraceUnsubscribe(subscription));
  // Enqueue and begin of the launch, begin and end of two nodes, end.
  EXPECT_EQ(log.records.size(), size_t(7));
  uint64_t time = 0;
  for (const orTraceRecord& record : log.records) {
    EXPECT_EQ(record.correlation, log.records[0].correlation);
    EXPECT(record.time >= time);
    time = record.time;
  }
  EXPECT_EQ(log.records[0].phase, orTraceEnqueue);
  EXPECT_EQ(log.records[2].kind, orTraceKernel);
  EXPECT_EQ(strcmp(log.records[4].name, "two"), 0);
  EXPECT_EQ(log.records[6].kind, orTraceGraph);
  EXPECT_EQ(log.records[6].phase, orTraceEnd);
}

TEST_ENV(GraphsWithLaunchBlocking, "OPENREG_LAUNCH_BLOCKING=1") {
  orStream_t stream = newStream();
  bool ran = false;
  begin(stream);
  OK(launch(stream, "fails", [&](const orLaunchContext* context) {
    ran = true;
    return orKernelFail(context, orErrorLaunchValue, "no");
  }));
  orGraphExec_t exec = instantiate(endCapture(stream));
  EXPECT(!ran);
  FAILS(orGraphLaunch(exec, stream), orErrorLaunchValue, "fails: no");
  EXPECT(ran);
}

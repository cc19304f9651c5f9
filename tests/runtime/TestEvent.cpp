// c10::openreg::OpenRegEvent.

#include <chrono>
#include <thread>

#include "RuntimeTest.h"
#include "runtime/Event.h"

using namespace test;
using c10::openreg::OpenRegEvent;

TEST(EventWithoutRecord) {
  OpenRegEvent event, end;
  EXPECT(event.query());
  event.synchronize();
  event.block(other_stream());
  EXPECT(event.handle() == nullptr);
  EXPECT_EQ(int(event.device_index()), -1);
  RAISES(event.elapsed_time(end), c10::Error, "must be recorded");
}

TEST(EventOrdersStreams) {
  const OpenRegStream first = other_stream(), second = other_stream();
  Blocked blocked(first.handle());
  OpenRegEvent event;
  event.record(first);
  event.block(second);
  EXPECT(!event.query());
  EXPECT(!second.query());
  blocked.open();
  event.synchronize();
  EXPECT(event.query());
  second.synchronize();
}

TEST(EventOfOneDevice) {
  OpenRegEvent event;
  event.record(other_stream(1));
  EXPECT_EQ(int(event.device_index()), 1);
  RAISES(event.record(other_stream(0)), c10::Error, "openreg:1");
  event.block(other_stream(0));
}

TEST(EventTiming) {
  const OpenRegStream stream = other_stream();
  OpenRegEvent start(orEventDefault), end(orEventDefault), untimed;
  start.record(stream);
  stream.synchronize();
  {
    Blocked blocked(stream.handle());
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    end.record(stream);
    untimed.record(stream);
    RAISES(start.elapsed_time(end), c10::Error, "");
  }
  EXPECT(start.elapsed_time(end) >= 19);
  RAISES(start.elapsed_time(untimed), c10::Error, "");
}

TEST(EventMoves) {
  const OpenRegStream stream = other_stream();
  OpenRegEvent a;
  a.record(stream);
  const orEvent_t handle = a.handle();
  OpenRegEvent b(std::move(a));
  EXPECT(b.handle() == handle);
  a = std::move(b);
  EXPECT(a.handle() == handle && b.handle() == nullptr);
  b.record(stream);
}

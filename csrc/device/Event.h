#pragma once

#include <cstdint>

#include "HandlePool.h"
#include "Wait.h"

namespace openreg {

class Device;
class Stream;

// A point on a stream: everything up to its `number`th piece of work. Holds a
// reference to the stream if there is one.
struct Point {
  Stream* stream = nullptr;
  uint64_t number = 0;
};

// An event is the point of its last record; to wait for it is to wait for the
// point, so that waits keep theirs when the event is recorded again or
// destroyed. Only an event that keeps time puts work into the stream.
struct Event : Pooled {
  void recycle();

  Device* device = nullptr; // current when created
  bool keeps_time = false;

  SpinLock lock; // for what follows
  Point point;
  uint64_t records = 0; // how often recorded
  uint64_t time = 0;    // when the last record was reached
};

void destroyEventsOf(Device* device);

} // namespace openreg

#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "Error.h"
#include "HandlePool.h"
#include "SharedEvent.h"
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
  std::unique_ptr<SharedEvent> shared; // orEventInterprocess; does not change

  SpinLock lock; // for what follows
  Point point;
  uint64_t records = 0; // how often recorded
  uint64_t time = 0;    // when the last record was reached
  // What `point` is to other processes. Another number was recorded last: the
  // event is behind that, and not behind `point`.
  uint64_t shared_number = 0;

  // The capture of the last record, 0 if it was none; and, with the captures'
  // lock, the nodes that it is behind.
  std::atomic<uint64_t> capture{0};
  std::vector<size_t> nodes;
};

bool isReached(const Point& point);

// By any process.
bool isRecorded(Event* event);

// Lets later work of the stream wait for the point, whose reference it takes
// over unless it fails without a launch error.
orError_t submitWait(Stream* on, Point point);

void destroyEventsOf(Device* device);

} // namespace openreg

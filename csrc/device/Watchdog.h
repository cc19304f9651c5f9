#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "Error.h"

namespace openreg {

class Stream;
struct Record;
struct Work;

// Note [Watchdog]
// With OPENREG_LAUNCH_TIMEOUT (else nothing here runs: kWatched is one bit of a
// word that is tested anyway) every stream has a StreamWatch that says what its
// worker runs and since when. Who does what:
//
//   the launching thread  gathers the origin, before it takes a lock, and adds it
//   the worker            begins and ends each piece of work; ends its origin;
//                         if the work was reported, ends the hang
//   the monitor           one thread, sleeps until the first deadline; reports,
//                         holds the devices concerned, wakes those who wait
//
// A hang holds the devices of its stream and of all streams whose workers wait
// for it (Device::hold). A host thread that waits for a held device gives up
// with its error; a worker does not, so that nothing runs out of order. The
// monitor never waits for the launching layer, whose locks the program may hold.
// In a forked child there is no monitor, and no device to watch.
class StreamWatch {
 public:
  // A new stream's.
  void reset();

  // The launching thread, with what gatherOrigin returned.
  void add(uint64_t number, std::shared_ptr<void> origin);

  // The worker. `work` may be part of the piece of work `number`, a graph.
  void begin(const Record* record, uint64_t number, bool nested);
  void end(uint64_t number);

  // The worker runs a wait for another stream: that one is to blame.
  void waitsFor(const Stream* stream);

 private:
  friend class Monitor;

  std::mutex mutex_;
  std::map<uint64_t, std::shared_ptr<void>> origins_; // by place in the queue
  const char* name_ = nullptr;
  uint64_t ended_ = 0;  // work up to here
  uint64_t number_ = 0; // what runs; 0: nothing
  uint64_t since_ = 0;
  bool nested_ = false;
  const Stream* waits_for_ = nullptr; // the running closure holds a reference
  uint64_t hang_ = 0;                 // what runs was reported as
};

// Where work comes from, NULL if nobody tells. Takes locks of the layer above.
std::shared_ptr<void> gatherOrigin(const Work& work);

// Once, before there are devices.
orError_t startWatchdog();

} // namespace openreg

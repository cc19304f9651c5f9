#pragma once

#include <cstdint>
#include <memory>

#include "Error.h"
#include "openreg_ipc.h"

namespace openreg {

struct EventPage;

// An event's part that other processes have too. See
// Note [Events shared between processes].
class SharedEvent {
 public:
  // nullptr after a failure, with the error in *error.
  static std::unique_ptr<SharedEvent> create(orError_t* error);
  static std::unique_ptr<SharedEvent> open(const orIpcEventHandle& handle, orError_t* error);
  ~SharedEvent();
  SharedEvent(const SharedEvent&) = delete;
  SharedEvent& operator=(const SharedEvent&) = delete;

  void writeHandle(orIpcEventHandle* handle) const;

  // The number of the last record, of any process; 0: there is none.
  uint64_t last() const;
  // A new record, pending until reached(). Waits while 128 are.
  orError_t record(uint64_t* number);
  void reached(uint64_t number);

  // orSuccess, orErrorNotReady, or orErrorProcessDied if it will never be reached;
  // none is a failure yet. *process is who recorded it.
  orError_t query(uint64_t number, uint32_t* process) const;
  // Returns at the latest when that process dies; during exit, earlier. Of a host
  // thread, fails with orErrorLaunchTimeout at the watchdog's limit.
  orError_t wait(uint64_t number, uint32_t* process) const;

 private:
  SharedEvent(EventPage* page, int file) : page_(page), file_(file) {}

  EventPage* const page_;
  const int file_; // by which others open it
};

} // namespace openreg

#pragma once

// Events for the C++ side: a point in a stream's order that other streams and
// the host can wait for. (torch.Event goes through the guard, Guard.cpp.)

#include <c10/core/Event.h>

#include "runtime/Stream.h"

namespace c10::openreg {

// Created on the device at the first record. Not for concurrent use; the work
// that waits for a record is not affected by the event's end.
class OPENREG_API OpenRegEvent {
 public:
  // orEventDefault keeps time, orEventDisableTiming does not.
  explicit OpenRegEvent(unsigned flags = orEventDisableTiming) : flags_(flags) {}
  ~OpenRegEvent();

  OpenRegEvent(const OpenRegEvent&) = delete;
  OpenRegEvent& operator=(const OpenRegEvent&) = delete;
  OpenRegEvent(OpenRegEvent&& other) noexcept;
  OpenRegEvent& operator=(OpenRegEvent&& other) noexcept;

  // Raises if an earlier record was on another device.
  void record(const OpenRegStream& stream);
  // Makes later work of `stream` wait for the last record, if there is one.
  void block(const OpenRegStream& stream) const;
  // True as well when there is no record.
  bool query() const;
  void synchronize() const;
  // Milliseconds from this event's record to `end`'s.
  double elapsed_time(const OpenRegEvent& end) const;

  // NULL before the first record.
  orEvent_t handle() const {
    return event_;
  }
  // -1 before the first record.
  DeviceIndex device_index() const {
    return device_;
  }

 private:
  orEvent_t event_ = nullptr;
  unsigned flags_;
  DeviceIndex device_ = -1;
};

// Makes `event`, whose first record has not been, stand for `handle`, as if it had
// been recorded on the device; ends handle's life with its own. For kinds of events
// that c10::Event cannot create.
OPENREG_API void adopt_event(c10::Event& event, orEvent_t handle, DeviceIndex device);

} // namespace c10::openreg

#include "runtime/Event.h"

#include <utility>

namespace c10::openreg {

OpenRegEvent::~OpenRegEvent() {
  if (event_ != nullptr) {
    // Fails only in a forked child and after a device reset, where there is
    // nothing left to destroy.
    (void)orEventDestroy(event_);
  }
}

OpenRegEvent::OpenRegEvent(OpenRegEvent&& other) noexcept
    : event_(std::exchange(other.event_, nullptr)), flags_(other.flags_),
      device_(std::exchange(other.device_, DeviceIndex{-1})) {}

OpenRegEvent& OpenRegEvent::operator=(OpenRegEvent&& other) noexcept {
  std::swap(event_, other.event_);
  std::swap(flags_, other.flags_);
  std::swap(device_, other.device_);
  return *this;
}

void OpenRegEvent::record(const OpenRegStream& stream) {
  TORCH_CHECK(
      device_ == -1 || device_ == stream.device_index(),
      "an event of openreg:", static_cast<int>(device_),
      " cannot be recorded on a stream of openreg:", static_cast<int>(stream.device_index()));
  if (event_ == nullptr) {
    OPENREG_CHECK(orEventCreate(&event_, flags_));
  }
  OPENREG_CHECK(orEventRecord(event_, stream.handle()));
  device_ = stream.device_index();
}

void OpenRegEvent::block(const OpenRegStream& stream) const {
  if (event_ != nullptr) {
    OPENREG_CHECK(orStreamWaitEvent(stream.handle(), event_, 0));
  }
}

bool OpenRegEvent::query() const {
  if (event_ == nullptr) {
    return true;
  }
  const orError_t error = orEventQuery(event_);
  if (error == orErrorNotReady) {
    return false;
  }
  OPENREG_CHECK(error);
  return true;
}

void OpenRegEvent::synchronize() const {
  if (event_ != nullptr) {
    OPENREG_CHECK(orEventSynchronize(event_));
  }
}

double OpenRegEvent::elapsed_time(const OpenRegEvent& end) const {
  TORCH_CHECK(event_ != nullptr && end.event_ != nullptr,
              "Both events must be recorded before calculating elapsed time.");
  float milliseconds = 0;
  OPENREG_CHECK(orEventElapsedTime(&milliseconds, event_, end.event_));
  return milliseconds;
}

} // namespace c10::openreg

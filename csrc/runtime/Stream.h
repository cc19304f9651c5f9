#pragma once

// Streams as c10 sees them. Each thread has a current stream per device;
// operators launch on it.
//
// Note [Stream ids]
// A c10::StreamId packs what a stream is into an integer, since torch.Stream
// carries nothing else: 0 is the device's default stream, small numbers are
// pool streams (see Stream.cpp), an external stream's id is its handle's
// address. PyTorch's hash keeps 48 bits, which addresses fit.

#include <c10/core/Stream.h>

#include "runtime/Functions.h"

namespace c10::openreg {

class OPENREG_API OpenRegStream {
 public:
  // Raises if the stream is another device type's.
  explicit OpenRegStream(c10::Stream stream);

  // The device library's handle.
  orStream_t handle() const;

  c10::Stream unwrap() const {
    return stream_;
  }
  StreamId id() const {
    return stream_.id();
  }
  DeviceIndex device_index() const {
    return stream_.device_index();
  }
  bool operator==(const OpenRegStream& other) const {
    return stream_ == other.stream_;
  }

  int priority() const;
  bool query() const;
  void synchronize() const;

 private:
  c10::Stream stream_;
};

// `device` -1 is the current device in all of these.
OPENREG_API OpenRegStream get_default_stream(DeviceIndex device = -1);
OPENREG_API OpenRegStream get_current_stream(DeviceIndex device = -1);
OPENREG_API void set_current_stream(OpenRegStream stream);

// Round-robin over 32 streams a priority and device, created at first use.
// Lower is more urgent: 0 or -1, others are clamped.
OPENREG_API OpenRegStream get_stream_from_pool(int priority = 0, DeviceIndex device = -1);
OPENREG_API OpenRegStream get_external_stream(orStream_t handle, DeviceIndex device);

// Whether the process has used the device: asked for a stream of it, as every
// launch and allocation does.
OPENREG_API bool has_context(DeviceIndex device);

// The hot path of every launch: the handle of get_current_stream(device).
OPENREG_API orStream_t current_stream_handle(DeviceIndex device);

} // namespace c10::openreg

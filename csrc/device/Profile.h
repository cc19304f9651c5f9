#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "Error.h"
#include "openreg_profile.h"

// OPENREG_PROFILE: what distinguishes one emulated device from another.

namespace openreg {

struct Profile {
  std::string name = "OpenReg Emulated Device";
  size_t memory = 0;            // capacity in bytes
  unsigned dtypes = orDtypeAll; // orDtype
  double compute = 1;           // share of the host's speed, above 0
  double link = 0;              // bytes a second to the host and to peers; 0: no limit
};

// Reads the variable; a device that it does not describe is not in the list.
// `memory` is the capacity where none is given. Fails with orErrorInitialization
// and a message that names the device, the key, what was expected and what came.
orError_t readProfiles(size_t memory, std::vector<Profile>* profiles);

// Note [Throttles]
// A device with a share of compute below 1 runs its kernels at the host's speed
// and then keeps its worker at rest until the kernel has lasted 1 / share as
// long. The rest is part of the kernel's run: events, waits, traces and other
// streams see one long kernel, and the host's cores are free meanwhile. A copy
// between two memories likewise lasts at least its bytes over the bandwidth of
// the slower of the links it passes.
class ThrottledRun {
 public:
  // For a Work or a Record.
  template <class Piece>
  ThrottledRun(int device, const Piece& piece) {
    throttle_.device = -1;
    if (OR_UNLIKELY(anyThrottle)) {
      begin(device, piece.kind, piece.pointer, piece.source, piece.size);
    }
  }
  ThrottledRun(const ThrottledRun&) = delete;
  ThrottledRun& operator=(const ThrottledRun&) = delete;
  ~ThrottledRun() {
    if (OR_UNLIKELY(throttle_.device >= 0)) {
      orThrottleEnd(&throttle_);
    }
  }

  // Whether some device is throttled. Set before there are streams.
  static bool anyThrottle;

 private:
  void begin(int device, uint32_t kind, const void* to, const void* from, size_t size);

  orThrottle throttle_; // only the device is set if nothing is throttled
};

} // namespace openreg

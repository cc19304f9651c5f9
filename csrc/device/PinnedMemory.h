#pragma once

#include <cstddef>
#include <cstdint>

namespace openreg {

struct PinnedBlock {
  uintptr_t begin = 0;
  size_t size = 0; // as requested
  int device = 0;  // current when allocated
};

// The pinned block that holds the address.
bool findPinned(const void* pointer, PinnedBlock* block);

} // namespace openreg

#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <utility>

namespace openreg {

// Hands out parts of an address range: best fit, neighbours merged when freed.
// Knows nothing of what the addresses mean, and nothing of threads.
class RangeAllocator {
 public:
  struct Range {
    uintptr_t begin;
    uintptr_t end;
  };

  void reset(uintptr_t begin, uintptr_t end);
  // 0 if no free range is large enough.
  uintptr_t allocate(size_t size, size_t alignment);
  // Returns the free range that the freed one has become part of.
  Range free(uintptr_t begin, size_t size);
  size_t largestFree() const;

 private:
  void insert(uintptr_t begin, uintptr_t end);
  void erase(std::map<uintptr_t, uintptr_t>::iterator range);

  std::map<uintptr_t, uintptr_t> by_address_;      // begin -> end
  std::set<std::pair<size_t, uintptr_t>> by_size_; // (size, begin)
};

} // namespace openreg

#include "RangeAllocator.h"

namespace openreg {

void RangeAllocator::reset(uintptr_t begin, uintptr_t end) {
  by_address_.clear();
  by_size_.clear();
  insert(begin, end);
}

uintptr_t RangeAllocator::allocate(size_t size, size_t alignment) {
  for (auto it = by_size_.lower_bound({size, 0}); it != by_size_.end(); ++it) {
    uintptr_t begin = it->second;
    uintptr_t end = begin + it->first;
    uintptr_t aligned = (begin + alignment - 1) & ~(uintptr_t(alignment) - 1);
    if (aligned > end || end - aligned < size) {
      continue;
    }
    erase(by_address_.find(begin));
    if (begin < aligned) {
      insert(begin, aligned);
    }
    if (aligned + size < end) {
      insert(aligned + size, end);
    }
    return aligned;
  }
  return 0;
}

RangeAllocator::Range RangeAllocator::free(uintptr_t begin, size_t size) {
  uintptr_t end = begin + size;
  auto next = by_address_.lower_bound(begin);
  if (next != by_address_.begin()) {
    auto previous = std::prev(next);
    if (previous->second == begin) {
      begin = previous->first;
      erase(previous);
    }
  }
  if (next != by_address_.end() && next->first == end) {
    end = next->second;
    erase(next);
  }
  insert(begin, end);
  return {begin, end};
}

size_t RangeAllocator::largestFree() const {
  return by_size_.empty() ? 0 : by_size_.rbegin()->first;
}

void RangeAllocator::insert(uintptr_t begin, uintptr_t end) {
  by_address_.emplace(begin, end);
  by_size_.emplace(end - begin, begin);
}

void RangeAllocator::erase(std::map<uintptr_t, uintptr_t>::iterator range) {
  by_size_.erase({range->second - range->first, range->first});
  by_address_.erase(range);
}

} // namespace openreg

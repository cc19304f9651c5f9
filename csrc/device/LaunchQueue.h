#pragma once

#include <sys/mman.h>

#include <atomic>
#include <cstdint>

#include "Wait.h"
#include "openreg.h"

// Note [Launch queue]
// A ring of bytes that holds the records of queued work, each followed by its
// closure. Positions count bytes since creation and only grow; a record never
// wraps: what does not fit before the ring's end starts at its beginning,
// behind a padding record.
//
//   who                        owns
//   a producer, with the lock  the bytes from tail to head + kBytes
//   the worker                 the bytes from head to tail; runs closures where
//                              they lie
//
// The producer's store to tail and the worker's store to head (both release)
// pass ownership to the other side. What producers touch, what the worker
// touches and what passes between them are on separate cache lines: a worker
// that polls tail does not slow down the producer's next lock.

namespace openreg {

struct alignas(64) Record {
  uint32_t bytes; // to the next record; a multiple of 64
  uint32_t kind;  // an orTraceKind, or one of these:
  static constexpr uint32_t kPadding = 0;
  static constexpr uint32_t kUntraced = 1u << 31;

  const char* name;
  const orClosureType* type;
  void* closure; // behind the record, or on the heap if too large for that
  uint64_t correlation;

  // For traces of copies and fills.
  const void* pointer;
  const void* source;
  size_t size;

  void* inlineClosure() {
    return this + 1;
  }
};
static_assert(sizeof(Record) == 64, "closures start on a cache line");

class LaunchQueue {
 public:
  static constexpr size_t kBytes = size_t(1) << 20;

  static size_t bytesFor(size_t closure_size) {
    return sizeof(Record) + ((closure_size + 63) & ~size_t(63));
  }

  // With the lock: the ring's memory; pages come when touched.
  bool allocate() {
    void* ring = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ring_ = ring == MAP_FAILED ? nullptr : static_cast<char*>(ring);
    return ring_ != nullptr;
  }
  bool isAllocated() const {
    return ring_ != nullptr;
  }
  // Nobody uses the queue any more.
  void release() {
    if (ring_) {
      munmap(ring_, kBytes);
    }
    ring_ = nullptr;
    tail_ = head_seen_ = 0;
    published_tail_.store(0, std::memory_order_relaxed);
    head_.store(0, std::memory_order_relaxed);
  }

  // --- producers, with the lock ---

  // Room for a record of `bytes`, nullptr while there is none.
  Record* reserve(size_t bytes) {
    size_t to_end = kBytes - (tail_ & (kBytes - 1));
    size_t needed = bytes <= to_end ? bytes : to_end + bytes;
    if (tail_ + needed - head_seen_ > kBytes) {
      head_seen_ = head_.load(std::memory_order_acquire);
      if (tail_ + needed - head_seen_ > kBytes) {
        return nullptr;
      }
    }
    if (bytes > to_end) {
      Record* padding = at(tail_);
      padding->bytes = static_cast<uint32_t>(to_end);
      padding->kind = Record::kPadding;
      tail_ += to_end;
    }
    Record* record = at(tail_);
    record->bytes = static_cast<uint32_t>(bytes);
    tail_ += bytes;
    return record;
  }

  // Hands all that was reserved to the worker.
  void publish() {
    published_tail_.store(tail_, std::memory_order_release);
  }

  // --- the worker ---

  uint64_t tail() const {
    return published_tail_.load(std::memory_order_acquire);
  }
  uint64_t head() const {
    return head_.load(std::memory_order_relaxed);
  }
  void setHead(uint64_t head) {
    head_.store(head, std::memory_order_release);
  }
  Record* at(uint64_t position) const {
    return reinterpret_cast<Record*>(ring_ + (position & (kBytes - 1)));
  }

  alignas(64) SpinLock lock;

 private:
  char* ring_ = nullptr; // set before the worker starts
  uint64_t tail_ = 0;
  uint64_t head_seen_ = 0; // head_ when last looked

  alignas(64) std::atomic<uint64_t> published_tail_{0};
  alignas(64) std::atomic<uint64_t> head_{0};
};

} // namespace openreg

#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>

// Note [Handles]
// Stream and event handles are not addresses: a handle holds a tag, the index
// of its object and a number that no other handle of that object ever had. The
// objects' storage is never released, only used again. So any bit pattern can
// be looked up safely: a destroyed, foreign or invented handle is recognised
// with two loads and no lock.

namespace openreg {

template <typename T>
class HandlePool;

// Base of pooled objects. The handle and everybody inside the library who needs
// the object beyond a call hold a reference each.
struct Pooled {
  std::atomic<uint64_t> handle{0}; // 0: destroyed or never created
  std::atomic<uint32_t> references{0};
  uint32_t index = 0;
  uint64_t uses = 0;
  Pooled* next_free = nullptr;
};

template <typename T>
class HandlePool {
 public:
  explicit constexpr HandlePool(uint64_t tag) : tag_(tag) {}

  // An object with one reference, that of its handle. It has none yet: fill the
  // object in, then publish. nullptr: a million of them exist.
  T* create() {
    std::lock_guard<std::mutex> guard(mutex_);
    Pooled* object = free_;
    if (object) {
      free_ = object->next_free;
    } else {
      if (count_ == kChunks * kChunkSize) {
        return nullptr;
      }
      if (count_ % kChunkSize == 0) {
        chunks_[count_ / kChunkSize].store(new T[kChunkSize], std::memory_order_release);
      }
      object = at(count_);
      object->index = count_++;
    }
    object->uses++;
    object->references.store(1, std::memory_order_release);
    return static_cast<T*>(object);
  }

  uint64_t handleFor(const T* object) const {
    return (object->uses << 28) | (uint64_t(object->index) << 4) | tag_;
  }
  void publish(T* object) {
    object->handle.store(handleFor(object), std::memory_order_release);
  }

  // nullptr unless the handle is of a living object.
  T* find(const void* handle) const {
    T* object = findEvenDestroyed(handle);
    return object && object->handle.load(std::memory_order_acquire) ==
                         reinterpret_cast<uint64_t>(handle)
               ? object
               : nullptr;
  }

  // The object that has or had the handle.
  T* findEvenDestroyed(const void* handle) const {
    uint64_t value = reinterpret_cast<uint64_t>(handle);
    uint32_t index = (value >> 4) & 0xffffff;
    if ((value & 15) != tag_ || index >= kChunks * kChunkSize) {
      return nullptr;
    }
    T* chunk = chunks_[index / kChunkSize].load(std::memory_order_acquire);
    return chunk ? &chunk[index % kChunkSize] : nullptr;
  }

  // Ends the handle's life. False if somebody else did already; the caller owns
  // the handle's reference if true.
  bool retire(T* object, const void* handle) {
    uint64_t expected = reinterpret_cast<uint64_t>(handle);
    return object->handle.compare_exchange_strong(expected, 0);
  }

  void addReference(T* object) {
    object->references.fetch_add(1, std::memory_order_relaxed);
  }

  // A reference for a call that found the object by its handle and is going to
  // wait: false if the object was destroyed and released meanwhile, even if it
  // is in use again under another handle.
  bool tryReference(T* object, uint64_t handle) {
    uint32_t references = object->references.load(std::memory_order_relaxed);
    do {
      if (references == 0) {
        return false;
      }
    } while (!object->references.compare_exchange_weak(
        references, references + 1, std::memory_order_acquire, std::memory_order_relaxed));
    if (handleFor(object) == handle) {
      return true;
    }
    release(object);
    return false;
  }

  void release(T* object) {
    if (object->references.fetch_sub(1, std::memory_order_acq_rel) == 1) {
      object->recycle();
      std::lock_guard<std::mutex> guard(mutex_);
      object->next_free = free_;
      free_ = object;
    }
  }

  // Calls function(object, handle) for all objects that live at the moment.
  template <typename Function>
  void forEach(Function function) {
    uint32_t count;
    {
      std::lock_guard<std::mutex> guard(mutex_);
      count = count_;
    }
    for (uint32_t i = 0; i < count; ++i) {
      T* object = at(i);
      uint64_t handle = object->handle.load(std::memory_order_acquire);
      if (handle) {
        function(object, reinterpret_cast<const void*>(handle));
      }
    }
  }

 private:
  static constexpr uint32_t kChunkSize = 64;
  static constexpr uint32_t kChunks = 16384;

  T* at(uint32_t index) const {
    return &chunks_[index / kChunkSize].load(std::memory_order_relaxed)[index % kChunkSize];
  }

  const uint64_t tag_;
  std::mutex mutex_;
  Pooled* free_ = nullptr;
  uint32_t count_ = 0;
  std::atomic<T*> chunks_[kChunks] = {};
};

} // namespace openreg

#include "Trace.h"

#include <pthread.h>

#include <vector>

#include "Wait.h"

namespace openreg {
namespace {

struct Subscriber {
  uint64_t id;
  unsigned kinds;
  orTraceCallback callback;
  void* user;
};

// Tracing threads share the list; who changes it waits until no callback runs,
// which is what lets orTraceUnsubscribe promise silence. Writers come first:
// workers that trace without a pause must not keep one out.
struct Subscribers {
  Subscribers() {
    pthread_rwlockattr_t attributes;
    pthread_rwlockattr_init(&attributes);
    pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&lock, &attributes);
    pthread_rwlockattr_destroy(&attributes);
  }

  // Only with the lock held for writing.
  void publishKinds() {
    uint32_t kinds = 0;
    for (const Subscriber& subscriber : list) {
      kinds |= subscriber.kinds & kTraceKinds;
    }
    uint32_t flags = runtimeFlags.load();
    while (!runtimeFlags.compare_exchange_weak(flags, (flags & ~uint32_t(kTraceKinds)) | kinds)) {
    }
  }

  pthread_rwlock_t lock;
  std::vector<Subscriber> list;
  uint64_t last_id = 0;
};

Subscribers& subscribers() {
  static auto* instance = new Subscribers();
  return *instance;
}

thread_local bool inCallback = false;

} // namespace

void trace(const orTraceRecord& record) {
  if (inCallback) {
    return; // the lock is not recursive, and a callback must not call the API
  }
  Subscribers& all = subscribers();
  pthread_rwlock_rdlock(&all.lock);
  inCallback = true;
  for (const Subscriber& subscriber : all.list) {
    if (subscriber.kinds & record.kind) {
      subscriber.callback(&record, subscriber.user);
    }
  }
  inCallback = false;
  pthread_rwlock_unlock(&all.lock);
}

uint64_t newCorrelation() {
  // Threads draw blocks of numbers, so that launches share no cache line.
  constexpr uint64_t kBlock = 4096;
  static std::atomic<uint64_t> nextBlock{1};
  thread_local uint64_t next = 0;
  if (OR_UNLIKELY(next % kBlock == 0)) {
    next = nextBlock.fetch_add(1, std::memory_order_relaxed) * kBlock;
  }
  return next++;
}

void SyncTrace::emit(orTracePhase phase, orError_t error) {
  orTraceRecord record{};
  record.kind = orTraceSync;
  record.phase = phase;
  record.name = name_;
  record.device = device_;
  record.stream = stream_;
  record.time = nowNanoseconds();
  record.error = error;
  trace(record);
}

void traceMemory(orTraceKind kind,
                 const char* name,
                 int device,
                 uint64_t stream,
                 const void* pointer,
                 size_t size) {
  orTraceRecord record{};
  record.kind = kind;
  record.phase = orTraceEnqueue;
  record.name = name;
  record.device = device;
  record.stream = stream;
  record.time = nowNanoseconds();
  record.pointer = pointer;
  record.size = size;
  trace(record);
}

} // namespace openreg

using namespace openreg;

orError_t
orTraceSubscribe(uint64_t* subscription, unsigned kinds, orTraceCallback callback, void* user) {
  if (hasFlag(kForked)) {
    return ensureReady();
  }
  if (!subscription || !callback) {
    return fail(orErrorInvalidValue, "orTraceSubscribe: %s is NULL",
                subscription ? "callback" : "subscription");
  }
  if (kinds == 0 || (kinds & ~unsigned(orTraceAll))) {
    return fail(orErrorInvalidValue,
                "orTraceSubscribe: kinds must be a non-empty set of orTraceKind, got "
                "0x%x",
                kinds);
  }
  if (inCallback) {
    return fail(orErrorNotSupported, "orTraceSubscribe: called by a trace callback");
  }
  Subscribers& all = subscribers();
  pthread_rwlock_wrlock(&all.lock);
  uint64_t id = ++all.last_id;
  all.list.push_back({id, kinds, callback, user});
  all.publishKinds();
  pthread_rwlock_unlock(&all.lock);
  *subscription = id;
  return orSuccess;
}

orError_t orTraceUnsubscribe(uint64_t subscription) {
  if (hasFlag(kForked)) {
    return ensureReady();
  }
  if (inCallback) {
    return fail(orErrorNotSupported, "orTraceUnsubscribe: called by a trace callback");
  }
  Subscribers& all = subscribers();
  bool found = false;
  pthread_rwlock_wrlock(&all.lock);
  for (size_t i = 0; i < all.list.size(); ++i) {
    if (all.list[i].id == subscription) {
      all.list.erase(all.list.begin() + i);
      found = true;
      break;
    }
  }
  all.publishKinds();
  pthread_rwlock_unlock(&all.lock);
  if (!found) {
    return fail(orErrorInvalidValue, "orTraceUnsubscribe: subscription %llu does not exist",
                static_cast<unsigned long long>(subscription));
  }
  return orSuccess;
}

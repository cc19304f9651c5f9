// The worker's side of Stream: the thread that runs the queue. See
// Note [Streams and their workers].

#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <cstdio>
#include <cstring>
#include <exception>

#include "Stream.h"
#include "Trace.h"

namespace openreg {
namespace {

thread_local Stream* streamOfThread = nullptr;

// Futex; grows when parked workers may go on.
std::atomic<uint32_t> resume_count{0};

constexpr int kHighPriorityNice = -5;
constexpr size_t kStackSize = size_t(8) << 20;

// A worker must not be picked for the process's signals (Ctrl-C, timers); those
// that a kernel's own fault raises stay.
void blockSignals(sigset_t* previous) {
  sigset_t all;
  sigfillset(&all);
  for (int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS}) {
    sigdelset(&all, fault);
  }
  pthread_sigmask(SIG_SETMASK, &all, previous);
}

} // namespace

Stream* Stream::ofThisThread() {
  return streamOfThread;
}

// With the queue's lock, at the first piece of work.
orError_t Stream::startWorker(const char* caller) {
  if (closing_.load(std::memory_order_relaxed)) {
    return openreg::fail(orErrorInvalidResourceHandle, "%s: the stream was destroyed", caller);
  }
  if (!queue_.isAllocated() && !queue_.allocate()) {
    return openreg::fail(orErrorHostMemoryAllocation, "%s: no memory for the queue of a stream",
                         caller);
  }
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  size_t stack = 0;
  if (pthread_attr_getstacksize(&attributes, &stack) == 0 && stack < kStackSize) {
    pthread_attr_setstacksize(&attributes, kStackSize);
  }
  sigset_t previous;
  blockSignals(&previous);
  pthread_t thread;
  int error = pthread_create(
      &thread, &attributes,
      [](void* stream) -> void* {
        static_cast<Stream*>(stream)->work();
        return nullptr;
      },
      this);
  pthread_sigmask(SIG_SETMASK, &previous, nullptr);
  pthread_attr_destroy(&attributes);
  if (error) {
    return openreg::fail(orErrorInitialization,
                         "%s: cannot start the worker thread of a stream (%s)", caller,
                         strerror(error));
  }
  started_ = accepting_ = true;
  return orSuccess;
}

void Stream::work() {
  streamOfThread = this;
  char name[16];
  snprintf(name, sizeof(name), "or-d%d-s%llu", device->ordinal,
           static_cast<unsigned long long>(id));
  pthread_setname_np(pthread_self(), name);
  if (priority < 0) {
    // All that a user-space device can do: under contention the system gives
    // this thread's kernels more of a core. Needs CAP_SYS_NICE; without it all
    // priorities are alike. It does not preempt a running kernel.
    setpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid)), kHighPriorityNice);
  }

  uint64_t head = 0;
  uint64_t number = 0;
  while (waitForWork(head)) {
    uint64_t tail = queue_.tail();
    while (head != tail) {
      Record* record = queue_.at(head);
      uint32_t bytes = record->bytes;
      if (record->kind != Record::kPadding) {
        if (hasFlag(kExiting | kForking | kWatched)) {
          prepare(record, ++number);
          execute(record, number);
          watch.end(number);
        } else {
          execute(record, ++number);
        }
        // Room first: who sees `completed` may count on it.
        queue_.setHead(head + bytes);
        completed_.store(number, std::memory_order_seq_cst);
        if (OR_UNLIKELY(number >= wake_at_.load(std::memory_order_seq_cst))) {
          wakeWaiters();
        }
      }
      head += bytes;
    }
  }
  finish();
}

// False when the stream is destroyed and its work done.
bool Stream::waitForWork(uint64_t head) {
  auto ready = [&] { return queue_.tail() != head || closing_.load(std::memory_order_acquire); };
  if (!ready() && !idle_budget_.spin(ready)) {
    queue_.lock.lock();
    bool sleep = !ready();
    if (sleep) {
      sleeping_.store(1, std::memory_order_relaxed);
    }
    queue_.lock.unlock();
    while (sleep && sleeping_.load(std::memory_order_acquire)) {
      futexWait(&sleeping_, 1);
    }
  }
  return queue_.tail() != head;
}

bool Stream::run(Record* record, uint64_t number, orTraceRecord* end) {
  orLaunchContext& context = running_.context;
  context.stream = public_handle_;
  context.device = device->ordinal;
  context.sequence = number;
  context.correlation = record->correlation;
  context.name = record->name;
  running_.error = orSuccess;

  const bool traced = hasFlag(record->kind & kTraceKinds);
  if (traced) {
    *end = {};
    end->kind = static_cast<orTraceKind>(record->kind);
    end->phase = orTraceBegin;
    end->name = record->name;
    end->device = device->ordinal;
    end->stream = id;
    end->correlation = record->correlation;
    end->pointer = record->pointer;
    end->source = record->source;
    end->size = record->size;
    end->time = nowNanoseconds();
    trace(*end);
  }

  const orClosureType* type = record->type;
  orError_t error;
  // Closures promise not to throw; one that does must not end the process.
  try {
    const ThrottledRun throttle(device->ordinal, *record); // Note [Throttles]
    error = type->invoke(record->closure, &context);
  } catch (const std::exception& exception) {
    error = orKernelFail(&context, orErrorLaunchFailure, exception.what());
  } catch (...) {
    error = orKernelFail(&context, orErrorLaunchFailure, "it threw something unknown");
  }
  if (OR_UNLIKELY(error != orSuccess || running_.error != orSuccess)) {
    fail(record, error);
    error = error != orSuccess ? error : running_.error;
  }
  if (traced) {
    end->phase = orTraceEnd;
    end->time = nowNanoseconds();
    end->error = error;
  }
  return traced;
}

void Stream::execute(Record* record, uint64_t number) {
  orTraceRecord end;
  const bool traced = run(record, number, &end);
  const orClosureType* type = record->type;
  if (type->destroy) {
    type->destroy(record->closure);
  }
  if (OR_UNLIKELY(record->closure != record->inlineClosure())) {
    freeHeapClosure(type, record->closure);
  }
  if (traced) {
    trace(end);
  }
}

void Stream::runNested(Record* record) {
  if (hasFlag(kExiting | kForking | kWatched)) {
    prepare(record, running_.context.sequence, /*nested=*/true);
  }
  orTraceRecord end;
  if (run(record, running_.context.sequence, &end)) {
    trace(end);
  }
  running_.error = orSuccess; // recorded, and not the outer piece of work's
}

void Stream::fail(Record* record, orError_t error) {
  std::lock_guard<std::mutex> guard(running_.mutex);
  std::string message = record->name ? record->name : "?";
  message += ": ";
  if (running_.error != orSuccess) {
    // What orKernelFail was told is the better report.
    error = running_.error;
    message += running_.message;
  } else {
    message += orGetErrorString(error);
  }
  device->recordError(isLaunchError(error) ? error : orErrorLaunchFailure, message);
}

void Stream::prepare(const Record* record, uint64_t number, bool nested) {
  if (hasFlag(kExiting | kForking)) {
    park();
  }
  if (hasFlag(kWatched)) {
    watch.begin(record, number, nested);
  }
}

// Until the fork is over; if exit is under way, this thread ends with the process.
void Stream::park() {
  parked_.store(true);
  while (hasFlag(kExiting | kForking)) {
    uint32_t count = resume_count.load(std::memory_order_acquire);
    if (hasFlag(kExiting | kForking)) {
      futexWait(&resume_count, count);
    }
  }
  parked_.store(false);
}

void resumeWorkers() {
  resume_count.fetch_add(1, std::memory_order_release);
  futexWake(&resume_count, INT32_MAX);
}

void waitForParkedWorkers(uint64_t timeout) {
  uint64_t end = nowNanoseconds() + timeout;
  for (int i = 0; i < deviceCount(); ++i) {
    for (Stream* stream : deviceAt(i).referenceStreams()) {
      stream->wakeWaiters(); // at exit, workers that wait for an event go to park
      while (Stream::ofThisThread() != stream && !stream->isIdle() && !stream->parked_.load() &&
             nowNanoseconds() < end) {
        timespec time = {0, 20000};
        nanosleep(&time, nullptr);
      }
      streamPool.release(stream);
    }
  }
}

} // namespace openreg

// See Note [Watchdog].

#include "Watchdog.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <set>
#include <utility>
#include <vector>

#include "Stream.h"
#include "openreg_watchdog.h"

namespace openreg {
namespace {

constexpr uint32_t kWithOrigin =
    orTraceKernel | orTraceMemcpy | orTraceMemset | orTraceHostFunc | orTraceGraph;
constexpr size_t kMaxDescription = 16384;

std::atomic<const orLaunchOriginType*> originType{nullptr};

} // namespace

std::shared_ptr<void> gatherOrigin(const Work& work) {
  const orLaunchOriginType* type = originType.load(std::memory_order_acquire);
  // Not for work of workers: these must not wait for whom they make wait.
  if (!type || !(work.kind & kWithOrigin) || Stream::ofThisThread()) {
    return nullptr;
  }
  void* origin = type->gather();
  return origin ? std::shared_ptr<void>(origin, type->release) : nullptr;
}

// Under its lock are the hangs that go on, and which devices they hold.
class Monitor {
 public:
  static Monitor& instance() {
    static auto* monitor = new Monitor();
    return *monitor;
  }

  orError_t start() {
    std::lock_guard<std::mutex> guard(mutex_);
    if (started_) {
      return orSuccess;
    }
    sigset_t all, previous;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &previous);
    pthread_t thread;
    int error = pthread_create(
        &thread, nullptr,
        [](void* monitor) -> void* {
          pthread_setname_np(pthread_self(), "or-watchdog");
          static_cast<Monitor*>(monitor)->run();
        },
        this);
    pthread_sigmask(SIG_SETMASK, &previous, nullptr);
    if (error) {
      return fail(orErrorInitialization,
                  "OPENREG_LAUNCH_TIMEOUT: cannot start the watchdog's thread (%s)",
                  strerror(error));
    }
    pthread_detach(thread);
    started_ = true;
    return orSuccess;
  }

  // By the worker: the work of the hang has ended.
  void end(uint64_t hang) {
    std::lock_guard<std::mutex> guard(mutex_);
    hangs_.erase(hang);
    for (int i = 0; i < deviceCount(); ++i) {
      deviceAt(i).endHold(hang);
    }
  }

 private:
  // What was found to be late.
  struct Late {
    Stream* stream; // a reference
    uint64_t number;
    uint64_t since;
    std::string message;
  };

  [[noreturn]] void run() {
    const uint64_t limit = config().launch_timeout;
    for (;;) {
      // Work that begins later than now is not late before now + limit.
      uint64_t now = nowNanoseconds();
      uint64_t wake = now + limit;
      if (!(runtimeFlags.load(std::memory_order_acquire) & (kUninitialized | kExiting))) {
        std::vector<Stream*> streams;
        for (int i = 0; i < deviceCount(); ++i) {
          std::vector<Stream*> more = deviceAt(i).referenceStreams();
          streams.insert(streams.end(), more.begin(), more.end());
        }
        std::vector<Late> late;
        for (Stream* stream : streams) {
          examine(stream, now, limit, &late, &wake);
        }
        for (const Late& one : late) {
          report(one);
        }
        propagate(streams);
        for (Stream* stream : streams) {
          streamPool.release(stream);
        }
      }
      now = nowNanoseconds();
      if (wake > now) {
        timespec time = {static_cast<time_t>((wake - now) / 1000000000u),
                         static_cast<long>((wake - now) % 1000000000u)};
        nanosleep(&time, nullptr);
      }
    }
  }

  void
  examine(Stream* stream, uint64_t now, uint64_t limit, std::vector<Late>* late, uint64_t* wake) {
    StreamWatch& watch = stream->watch;
    std::shared_ptr<void> origin;
    std::string name;
    Late one{stream, 0, 0, {}};
    bool nested;
    {
      std::lock_guard<std::mutex> guard(watch.mutex_);
      if (!watch.number_ || watch.waits_for_ || watch.hang_) {
        return;
      }
      if (now < watch.since_ + limit) { // it may have begun after `now` was read
        *wake = std::min(*wake, watch.since_ + limit);
        return;
      }
      auto found = watch.origins_.find(watch.number_);
      if (found != watch.origins_.end()) {
        origin = found->second;
      }
      name = watch.name_ ? watch.name_ : "?";
      nested = watch.nested_;
      one.number = watch.number_;
      one.since = watch.since_;
    }
    char line[256];
    snprintf(line, sizeof(line),
             ": still runs after %.3g s, the limit is %.3g s (OPENREG_LAUNCH_TIMEOUT)\n"
             "  device %d, stream %llu, launch %llu of the stream%s\n",
             static_cast<double>(now - one.since) * 1e-9, static_cast<double>(limit) * 1e-9,
             stream->device->ordinal, static_cast<unsigned long long>(stream->id),
             static_cast<unsigned long long>(one.number), nested ? ", part of a graph" : "");
    one.message = name + line;
    if (const orLaunchOriginType* type = originType.load(std::memory_order_acquire);
        type && origin) {
      std::string text(kMaxDescription, '\0');
      text.resize(std::min(type->describe(origin.get(), text.data(), text.size()), text.size()));
      one.message += text;
    }
    one.message += "  Until it ends, calls that wait for the device or need it fail";
    late->push_back(std::move(one));
  }

  void report(const Late& late) {
    {
      std::lock_guard<std::mutex> guard(mutex_);
      StreamWatch& watch = late.stream->watch;
      {
        std::lock_guard<std::mutex> watch_guard(watch.mutex_);
        if (watch.number_ != late.number || watch.since_ != late.since) {
          return; // it has ended meanwhile
        }
        watch.hang_ = ++last_hang_;
      }
      hangs_.emplace(last_hang_, late.message);
      late.stream->device->hold(last_hang_, late.message);
    }
    // Without stdio, whose locks the hung work may hold.
    std::string text = "openreg watchdog: " + late.message + ".\n";
    for (size_t done = 0; done < text.size();) {
      ssize_t count = write(STDERR_FILENO, text.data() + done, text.size() - done);
      if (count <= 0) {
        break;
      }
      done += static_cast<size_t>(count);
    }
    wake(late.stream->device);
  }

  // Streams that wait for a stream that hangs, or for one that waits for it, hang
  // too.
  void propagate(const std::vector<Stream*>& streams) {
    std::set<Device*> concerned;
    {
      std::lock_guard<std::mutex> guard(mutex_);
      if (hangs_.empty()) {
        return;
      }
      std::map<const Stream*, uint64_t> hanging;
      std::map<Stream*, const Stream*> waiting;
      for (Stream* stream : streams) {
        std::lock_guard<std::mutex> watch_guard(stream->watch.mutex_);
        if (stream->watch.hang_ && hangs_.count(stream->watch.hang_)) {
          hanging[stream] = stream->watch.hang_;
        } else if (stream->watch.waits_for_) {
          waiting[stream] = stream->watch.waits_for_;
        }
      }
      for (bool found = true; found;) {
        found = false;
        for (auto [stream, other] : waiting) {
          auto hang = hanging.find(other);
          if (hang != hanging.end() && hanging.emplace(stream, hang->second).second) {
            found = true;
            std::string message = "a stream of device " + std::to_string(stream->device->ordinal) +
                                  " waits for work that hangs: " + hangs_[hang->second];
            if (stream->device->hold(hang->second, message)) {
              concerned.insert(stream->device);
            }
          }
        }
      }
    }
    for (Device* device : concerned) {
      wake(device);
    }
  }

  void wake(Device* device) {
    for (Stream* stream : device->referenceStreams()) {
      stream->wakeWaiters();
      streamPool.release(stream);
    }
  }

  std::mutex mutex_;
  std::map<uint64_t, std::string> hangs_;
  uint64_t last_hang_ = 0;
  bool started_ = false;
};

void StreamWatch::reset() {
  std::lock_guard<std::mutex> guard(mutex_);
  ended_ = 0;
}

void StreamWatch::add(uint64_t number, std::shared_ptr<void> origin) {
  std::lock_guard<std::mutex> guard(mutex_);
  // Else the worker was faster, and nobody would end it.
  if (origin && number > ended_) {
    origins_.emplace(number, std::move(origin));
  }
}

void StreamWatch::begin(const Record* record, uint64_t number, bool nested) {
  uint64_t hang;
  {
    std::lock_guard<std::mutex> guard(mutex_);
    hang = std::exchange(hang_, 0); // of the graph's piece before
    name_ = record->name;
    number_ = number;
    nested_ = nested;
    since_ = nowNanoseconds();
  }
  if (hang) {
    Monitor::instance().end(hang);
  }
}

void StreamWatch::waitsFor(const Stream* stream) {
  std::lock_guard<std::mutex> guard(mutex_);
  waits_for_ = stream;
}

void StreamWatch::end(uint64_t number) {
  std::map<uint64_t, std::shared_ptr<void>> ended;
  uint64_t hang;
  {
    std::lock_guard<std::mutex> guard(mutex_);
    hang = std::exchange(hang_, 0);
    number_ = 0;
    ended_ = number;
    waits_for_ = nullptr;
    while (!origins_.empty() && origins_.begin()->first <= number) {
      ended.insert(origins_.extract(origins_.begin()));
    }
  }
  if (hang) {
    Monitor::instance().end(hang);
  }
}

orError_t startWatchdog() {
  return Monitor::instance().start();
}

} // namespace openreg

using namespace openreg;

orError_t orGetLaunchTimeout(uint64_t* nanoseconds) {
  if (hasFlag(kForked)) {
    return ensureReady();
  }
  if (!nanoseconds) {
    return fail(orErrorInvalidValue, "orGetLaunchTimeout: nanoseconds is NULL");
  }
  if (!hasFlag(kUninitialized)) {
    *nanoseconds = config().launch_timeout;
    return orSuccess;
  }
  return readLaunchTimeout(nanoseconds);
}

orError_t orSetLaunchOrigin(const orLaunchOriginType* type) {
  if (type && (!type->gather || !type->describe || !type->release)) {
    return fail(orErrorInvalidValue, "orSetLaunchOrigin: type->%s is NULL",
                !type->gather     ? "gather"
                : !type->describe ? "describe"
                                  : "release");
  }
  originType.store(type, std::memory_order_release);
  return orSuccess;
}

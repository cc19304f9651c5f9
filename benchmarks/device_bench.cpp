// Microbenchmarks of the device library alone. Build and run:
//   cmake -G Ninja -S csrc/device -B build/device -DOPENREG_BENCHMARKS=ON
//   ninja -C build/device && build/device/device_bench
// Medians; "p90" beside them says how quiet the machine was.

#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#include "openreg.h"
#include "openreg_kernel.h"

namespace {

double now() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1e9 + time.tv_nsec;
}

void check(orError_t error, const char* what) {
  if (error != orSuccess) {
    fprintf(stderr, "%s: %s: %s\n", what, orGetErrorName(error), orGetLastErrorMessage());
    exit(1);
  }
}
#define CHECK(call) check(call, #call)

void report(const char* name, std::vector<double> samples, const char* unit) {
  std::sort(samples.begin(), samples.end());
  printf("%-52s %10.1f %-4s (p90 %.1f)\n", name, samples[samples.size() / 2], unit,
         samples[samples.size() * 9 / 10]);
}

struct Empty {
  char payload[64];
};
const orClosureType emptyType = {
    sizeof(Empty), 8,      nullptr, [](void*, const orLaunchContext*) { return orSuccess; },
    nullptr,       nullptr};

// Some milliseconds of arithmetic in registers.
struct Compute {
  long rounds;
};
const orClosureType computeType = {sizeof(Compute),
                                   8,
                                   nullptr,
                                   [](void* closure, const orLaunchContext*) {
                                     uint64_t x = 88172645463325252u;
                                     for (long i = 0; i < static_cast<Compute*>(closure)->rounds;
                                          ++i) {
                                       x ^= x << 13;
                                       x ^= x >> 7;
                                       x ^= x << 17;
                                     }
                                     volatile uint64_t sink = x;
                                     (void)sink;
                                     return orSuccess;
                                   },
                                   nullptr,
                                   nullptr};

void launch(orStream_t stream) {
  Empty empty;
  CHECK(orLaunch(stream, "empty", &emptyType, &empty));
}

double perCall(int calls, const std::function<void()>& burst) {
  double start = now();
  burst();
  return (now() - start) / calls;
}

void benchLaunch(orStream_t stream) {
  std::vector<double> issue, complete, sync, idle_sync;
  for (int round = 0; round < 2000; ++round) {
    double start = now();
    issue.push_back(perCall(256, [&] {
      for (int i = 0; i < 256; ++i) {
        launch(stream);
      }
    }));
    CHECK(orStreamSynchronize(stream));
    complete.push_back((now() - start) / 256);
  }
  report("empty launch, issue (bursts of 256)", issue, "ns");
  report("empty launch, complete", complete, "ns");
  for (int round = 0; round < 5000; ++round) {
    sync.push_back(perCall(1, [&] {
      launch(stream);
      CHECK(orStreamSynchronize(stream));
    }));
    idle_sync.push_back(perCall(100, [&] {
      for (int i = 0; i < 100; ++i) {
        CHECK(orStreamSynchronize(stream));
      }
    }));
  }
  report("launch + synchronize, worker awake", sync, "ns");
  report("synchronize an idle stream", idle_sync, "ns");
  std::vector<double> cold, cold_issue;
  for (int round = 0; round < 200; ++round) {
    usleep(1000);
    double start = now();
    launch(stream);
    cold_issue.push_back(now() - start);
    CHECK(orStreamSynchronize(stream));
    cold.push_back(now() - start);
  }
  report("launch, worker asleep: issue", cold_issue, "ns");
  report("launch + synchronize, worker asleep", cold, "ns");
  std::vector<double> progress;
  for (int round = 0; round < 500; ++round) {
    progress.push_back(perCall(1000, [&] {
      uint64_t issued, completed;
      for (int i = 0; i < 1000; ++i) {
        orStreamGetProgress(stream, &issued, &completed);
      }
    }));
  }
  report("orStreamGetProgress", progress, "ns");
}

void benchEvents(orStream_t a, orStream_t b) {
  for (unsigned flags : {orEventDisableTiming, orEventDefault}) {
    const char* kind = flags == orEventDefault ? "timed" : "untimed";
    orEvent_t event;
    CHECK(orEventCreate(&event, flags));
    std::vector<double> record, wait, chain;
    for (int round = 0; round < 1000; ++round) {
      record.push_back(perCall(256, [&] {
        for (int i = 0; i < 256; ++i) {
          CHECK(orEventRecord(event, a));
        }
      }));
      CHECK(orStreamSynchronize(a));
      wait.push_back(perCall(256, [&] {
        for (int i = 0; i < 256; ++i) {
          CHECK(orStreamWaitEvent(b, event, 0));
        }
      }));
      CHECK(orStreamSynchronize(b));
    }
    for (int round = 0; round < 200; ++round) {
      chain.push_back(perCall(20, [&] {
        for (int i = 0; i < 10; ++i) {
          launch(a);
          CHECK(orEventRecord(event, a));
          CHECK(orStreamWaitEvent(b, event, 0));
          launch(b);
          CHECK(orEventRecord(event, b));
          CHECK(orStreamWaitEvent(a, event, 0));
        }
        CHECK(orStreamSynchronize(a));
      }));
    }
    CHECK(orEventDestroy(event));
    char name[64];
    snprintf(name, sizeof(name), "event record, %s", kind);
    report(name, record, "ns");
    snprintf(name, sizeof(name), "wait for a reached event, %s", kind);
    report(name, wait, "ns");
    snprintf(name, sizeof(name), "hand-over between two streams, %s", kind);
    report(name, chain, "ns");
  }
}

void benchScaling(orStream_t a, orStream_t b) {
  auto run = [&](bool two) {
    double start = now();
    for (int i = 0; i < 16; ++i) {
      Compute compute{3000000};
      CHECK(orLaunch(two && i % 2 ? b : a, "compute", &computeType, &compute));
    }
    CHECK(orStreamSynchronize(a));
    CHECK(orStreamSynchronize(b));
    return now() - start;
  };
  std::vector<double> ratio;
  for (int round = 0; round < 7; ++round) {
    double one = run(false);
    ratio.push_back(one / run(true));
  }
  report("two streams of compute against one", ratio, "x");
}

void benchMemory(orStream_t stream) {
  for (size_t size : {size_t(1) << 10, size_t(64) << 20}) {
    std::vector<double> samples;
    for (int round = 0; round < 300; ++round) {
      samples.push_back(perCall(100, [&] {
        for (int i = 0; i < 100; ++i) {
          void* pointer;
          CHECK(orMalloc(&pointer, size));
          CHECK(orFree(pointer));
        }
      }));
    }
    char name[64];
    snprintf(name, sizeof(name), "orMalloc + orFree, %zu KiB", size >> 10);
    report(name, samples, "ns");
  }

  const size_t size = size_t(256) << 20;
  std::vector<char> host(size, 1), other(size, 2);
  void *device, *pinned;
  CHECK(orMalloc(&device, size));
  CHECK(orHostAlloc(&pinned, size, 0));
  memset(pinned, 3, size);
  std::vector<double> plain, to, from, cold, issue, small;
  for (int round = 0; round < 7; ++round) {
    plain.push_back(size / perCall(1, [&] { memcpy(host.data(), other.data(), size); }));
    to.push_back(size / perCall(1, [&] {
                   CHECK(orMemcpy(device, other.data(), size, orMemcpyHostToDevice));
                 }));
    from.push_back(size / perCall(1, [&] {
                     CHECK(orMemcpy(host.data(), device, size, orMemcpyDeviceToHost));
                   }));
    auto issuePinned = [&] { CHECK(orMemcpyAsync(device, pinned, size, orMemcpyDefault, stream)); };
    // Behind the copies above caches are cold and the worker sleeps; then not.
    cold.push_back(perCall(1, issuePinned));
    CHECK(orStreamSynchronize(stream));
    issue.push_back(perCall(1, issuePinned));
    CHECK(orStreamSynchronize(stream));
  }
  for (int round = 0; round < 1000; ++round) {
    small.push_back(perCall(100, [&] {
      for (int i = 0; i < 100; ++i) {
        CHECK(orMemcpyAsync(device, other.data(), 64, orMemcpyHostToDevice, stream));
      }
    }));
    CHECK(orStreamSynchronize(stream));
  }
  report("memcpy, 256 MiB", plain, "GB/s");
  report("pageable host to device, 256 MiB", to, "GB/s");
  report("device to pageable host, 256 MiB", from, "GB/s");
  report("pinned host to device, 256 MiB: issue, asleep", cold, "ns");
  report("pinned host to device, 256 MiB: issue, awake", issue, "ns");
  report("pageable host to device, 64 bytes: issue", small, "ns");
  CHECK(orFree(device));
  CHECK(orFreeHost(pinned));
}

double cpuSeconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec +
         (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

} // namespace

int main() {
  orStream_t a, b;
  CHECK(orStreamCreate(&a));
  CHECK(orStreamCreate(&b));
  benchLaunch(a);
  benchEvents(a, b);
  benchScaling(a, b);
  benchMemory(a);
  CHECK(orDeviceSynchronize());
  usleep(10000);
  double before = cpuSeconds();
  sleep(1);
  printf("%-52s %10.3f %%\n", "processor time of an idle device over a second",
         (cpuSeconds() - before) * 100);
  return 0;
}

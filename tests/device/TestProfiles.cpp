// OPENREG_PROFILE: what each device is, and how fast.

#include <time.h>
#include <unistd.h>

#include <fstream>

#include "Test.h"
#include "openreg_profile.h"

using namespace test;

namespace {

double now() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return double(time.tv_sec) + 1e-9 * double(time.tv_nsec);
}

// A kernel whose own time is at least this, by its own clock.
void spin(double seconds) {
  for (double begin = now(); now() - begin < seconds;) {
  }
}

// Seconds by events of what `queue` puts on the stream.
template <class Queue>
double timed(orStream_t stream, Queue queue) {
  orEvent_t begin, end;
  OK(orEventCreate(&begin, orEventDefault));
  OK(orEventCreate(&end, orEventDefault));
  OK(orEventRecord(begin, stream));
  queue();
  OK(orEventRecord(end, stream));
  OK(orEventSynchronize(end));
  float milliseconds = -1;
  OK(orEventElapsedTime(&milliseconds, begin, end));
  OK(orEventDestroy(begin));
  OK(orEventDestroy(end));
  return milliseconds * 1e-3;
}

unsigned dtypesOf(int device) {
  unsigned dtypes = 0;
  OK(orDeviceGetDtypes(&dtypes, device));
  return dtypes;
}

} // namespace

TEST_ENV(ProfileDescribesDevices,
         "OPENREG_PROFILE=name=Large,memory=128M;default;name=Small,memory=8MiB,"
         "dtypes=-float64|-complex128;dtypes=float32|integer") {
  int count = 0;
  OK(orGetDeviceCount(&count));
  EXPECT_EQ(count, 4); // as many as there are profiles
  const char* names[] = {"Large", "OpenReg Emulated Device", "Small", "OpenReg Emulated Device"};
  const size_t sizes[] = {128, 64, 8, 64}; // OPENREG_DEVICE_MEMORY where it is not said
  const unsigned dtypes[] = {
      orDtypeAll, orDtypeAll, orDtypeAll & ~unsigned(orDtypeFloat64 | orDtypeComplex128),
      orDtypeFloat32 | orDtypeUint8 | orDtypeInt8 | orDtypeUint16 | orDtypeInt16 | orDtypeUint32 |
          orDtypeInt32 | orDtypeUint64 | orDtypeInt64};
  for (int i = 0; i < count; ++i) {
    orDeviceProp prop;
    OK(orGetDeviceProperties(&prop, i));
    EXPECT(!strcmp(prop.name, names[i]));
    EXPECT_EQ(prop.total_memory, sizes[i] << 20);
    EXPECT_EQ(dtypesOf(i), dtypes[i]);
    OK(orSetDevice(i));
    size_t free, total;
    OK(orMemGetInfo(&free, &total));
    EXPECT_EQ(free, sizes[i] << 20);
    void* memory;
    OK(orMalloc(&memory, sizes[i] << 20));
    void* more;
    FAILS(orMalloc(&more, 512), orErrorMemoryAllocation, "0 of ");
    OK(orFree(memory));
  }
  unsigned unused;
  FAILS(orDeviceGetDtypes(&unused, 4), orErrorInvalidDevice, "got 4");
  FAILS(orDeviceGetDtypes(nullptr, 0), orErrorInvalidValue, "dtypes is NULL");
}

TEST_ENV(ProfilesAreOfPhysicalDevices,
         "OPENREG_DEVICE_COUNT=3 OPENREG_VISIBLE_DEVICES=2,0 "
         "OPENREG_PROFILE=name=A,memory=4M;name=B") {
  orDeviceProp prop;
  OK(orGetDeviceProperties(&prop, 0));
  EXPECT(!strcmp(prop.name, "OpenReg Emulated Device")); // the third has no profile
  OK(orGetDeviceProperties(&prop, 1));
  EXPECT(!strcmp(prop.name, "A"));
  EXPECT_EQ(prop.total_memory, size_t(4) << 20);
}

TEST(ProfileFromFile) {
  std::string path = "/tmp/openreg-profile-" + std::to_string(getpid());
  std::ofstream(path) << "# two devices\n\n  name = Large one , link=8G # fast\nname=Small\n";
  setenv("OPENREG_PROFILE", ("@" + path).c_str(), 1);
  int count = 0;
  OK(orGetDeviceCount(&count));
  EXPECT_EQ(count, 2);
  orDeviceProp prop;
  OK(orGetDeviceProperties(&prop, 0));
  EXPECT(!strcmp(prop.name, "Large one"));
  unlink(path.c_str());
}

TEST(BadProfilesAreReported) {
  struct {
    const char* value;
    const char* says[3];
  } bad[] = {
      {"memory=lots", {"device 0: memory", "expected a size from 2MiB", "got \"lots\""}},
      {"name=A;memory=1K", {"device 1: memory", "expected a size from 2MiB", "got \"1K\""}},
      {"name=", {"device 0: name", "1 to 63 characters", "got \"\""}},
      {"dtypes=float33", {"device 0: dtypes", "names of dtypes", "got \"float33\""}},
      {"dtypes=float32|-bool", {"device 0: dtypes", "each with a minus", "float32|-bool"}},
      {"dtypes=", {"device 0: dtypes", "names of dtypes", "got \"\""}},
      {"compute=0%", {"device 0: compute", "0.1% to 100%", "got \"0%\""}},
      {"compute=50", {"device 0: compute", "0.1% to 100%", "got \"50\""}},
      {"compute=101%", {"device 0: compute", "0.1% to 100%", "got \"101%\""}},
      {"link=fast", {"device 0: link", "bytes a second", "got \"fast\""}},
      {"link=0", {"device 0: link", "bytes a second", "got \"0\""}},
      {"speed=3", {"device 0", "name, memory, dtypes, compute and link", "got \"speed=3\""}},
      {"Large", {"device 0", "KEY=VALUE", "got \"Large\""}},
      {"name=A,name=B", {"device 0", "each key once", "got \"name=B\""}},
      {"@/nowhere/profile", {"expected a readable file", "@", "got \"@/nowhere/profile\""}},
  };
  void* memory;
  for (auto& setting : bad) {
    setenv("OPENREG_PROFILE", setting.value, 1);
    EXPECT_EQ(orMalloc(&memory, 16), orErrorInitialization);
    EXPECT(strstr(orGetLastErrorMessage(), "OPENREG_PROFILE"));
    for (const char* part : setting.says) {
      EXPECT(strstr(orGetLastErrorMessage(), part));
    }
  }
  setenv("OPENREG_PROFILE", "name=A;name=B;name=C", 1);
  setenv("OPENREG_DEVICE_COUNT", "2", 1);
  FAILS(orMalloc(&memory, 16), orErrorInitialization, "at most 2 devices");
  unsetenv("OPENREG_PROFILE");
  OK(orMalloc(&memory, 16));
}

TEST_ENV(ThrottledKernelsLastLonger, "OPENREG_PROFILE=compute=50%;compute=10%;default") {
  constexpr double kOwn = 2e-3;
  const double factors[] = {2, 10, 1};
  for (int device = 0; device < 3; ++device) {
    OK(orSetDevice(device));
    orStream_t stream;
    OK(orStreamCreate(&stream));
    double whole = timed(stream, [&] { OK(launch(stream, "spin", [] { spin(kOwn); })); });
    EXPECT(whole >= factors[device] * kOwn * 0.999);
  }
}

// The worker rests, not the caller; and what does not compute does not rest.
TEST_ENV(ThrottledLaunchesAreAsynchronous, "OPENREG_PROFILE=compute=0.1%;default") {
  orStream_t stream;
  OK(orStreamCreate(&stream));
  Gate gate;
  OK(orLaunchHostFunc(stream, [](void* user) { static_cast<Gate*>(user)->wait(); }, &gate));
  double begin = now();
  OK(launch(stream, "spin", [] { spin(1e-4); }));
  OK(orStreamQuery(stream) == orErrorNotReady ? orSuccess : orErrorInvalidValue);
  gate.open();
  OK(orStreamSynchronize(stream));
  EXPECT(now() - begin >= 0.099);
}

TEST_ENV(ThrottledGraphNodesLastLonger, "OPENREG_PROFILE=compute=50%") {
  constexpr double kOwn = 1e-3;
  orStream_t stream;
  OK(orStreamCreate(&stream));
  OK(orStreamBeginCapture(stream, orStreamCaptureModeGlobal));
  for (int i = 0; i < 3; ++i) {
    OK(launch(stream, "spin", [] { spin(kOwn); }));
  }
  orGraph_t graph;
  OK(orStreamEndCapture(stream, &graph));
  orGraphExec_t exec;
  OK(orGraphInstantiate(&exec, graph));
  EXPECT(timed(stream, [&] { OK(orGraphLaunch(exec, stream)); }) >= 6 * kOwn * 0.999);
  OK(orGraphExecDestroy(exec));
  OK(orGraphDestroy(graph));
}

// Traces show the rest as part of the kernel.
TEST_ENV(ThrottledKernelsInTraces, "OPENREG_PROFILE=compute=25%") {
  static std::atomic<uint64_t> begin{0}, end{0};
  uint64_t subscription;
  OK(orTraceSubscribe(
      &subscription, orTraceKernel,
      [](const orTraceRecord* record, void*) {
        if (record->phase == orTraceBegin) {
          begin = record->time;
        } else if (record->phase == orTraceEnd) {
          end = record->time;
        }
      },
      nullptr));
  OK(launch(nullptr, "spin", [] { spin(1e-3); }));
  OK(orDeviceSynchronize());
  OK(orTraceUnsubscribe(subscription));
  EXPECT(end - begin >= 3996000);
}

// 4 MiB at 100 MiB/s to device 0, at 200 to device 1 and at the slower one
// between the two.
TEST_ENV(ThrottledLinks, "OPENREG_PROFILE=link=100M;link=200M;default") {
  constexpr size_t kSize = 4 << 20;
  void *memory[3], *pinned;
  OK(orHostAlloc(&pinned, kSize, 0));
  memset(pinned, 7, kSize);
  std::vector<char> pageable(kSize);
  for (int device = 0; device < 3; ++device) {
    OK(orSetDevice(device));
    OK(orMalloc(&memory[device], kSize));
  }
  OK(orSetDevice(0));
  orStream_t stream;
  OK(orStreamCreate(&stream));
  auto copied = [&](void* dst, const void* src) {
    return timed(stream, [&] { OK(orMemcpyAsync(dst, src, kSize, orMemcpyDefault, stream)); });
  };
  constexpr double kTolerance = 0.999;
  EXPECT(copied(memory[0], pinned) >= 0.04 * kTolerance);
  EXPECT(copied(pinned, memory[0]) >= 0.04 * kTolerance);
  EXPECT(copied(memory[0], pageable.data()) >= 0.04 * kTolerance);
  EXPECT(copied(pageable.data(), memory[0]) >= 0.04 * kTolerance);
  EXPECT(copied(memory[1], memory[0]) >= 0.04 * kTolerance);
  EXPECT(copied(memory[1], memory[2]) >= 0.02 * kTolerance);
  EXPECT(copied(memory[1], pinned) >= 0.02 * kTolerance);
  double begin = now();
  OK(orMemcpy(memory[0], pageable.data(), kSize, orMemcpyHostToDevice));
  EXPECT(now() - begin >= 0.04 * kTolerance);
  OK(orMemcpy(pageable.data(), memory[1], kSize, orMemcpyDeviceToHost));
  EXPECT_EQ(pageable[kSize - 1], 7);
}

// Work that the host's thread does for the device.
TEST_ENV(ThrottledHostThread, "OPENREG_PROFILE=compute=50%,link=1M;default") {
  void* memory;
  OK(orMalloc(&memory, 4096));
  orThrottle outer, inner;
  double begin = now();
  orThrottleBegin(&outer, 0);
  orThrottleBegin(&inner, 1);
  spin(1e-3);
  orThrottleEnd(&inner);
  orThrottleEnd(&outer);
  EXPECT(now() - begin >= 2e-3 * 0.999);
  char bytes[4096];
  begin = now();
  orThrottleBegin(&outer, 0);
  orThrottleTransfer(orBacking(memory), bytes, 4096);
  orThrottleEnd(&outer);
  EXPECT(now() - begin >= 4096.0 / (1 << 20) * 0.999);
  orThrottleTransfer(orBacking(memory), bytes, size_t(1) << 40); // no kernel runs
}

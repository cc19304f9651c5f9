#include <thread>

#include "Test.h"

using namespace test;

TEST(DefaultIsTwoDevices) {
  int count = -1;
  OK(orGetDeviceCount(&count));
  EXPECT_EQ(count, 2);
  EXPECT_EQ(orBackingOffset, 0); // counting does not initialise
  orDeviceProp prop;
  OK(orGetDeviceProperties(&prop, 1));
  EXPECT(orBackingOffset != 0);
  EXPECT_EQ(prop.total_memory, size_t(64) << 20);
  EXPECT(prop.multi_processor_count >= 1);
  EXPECT(strlen(prop.name) > 0);
  EXPECT_EQ(prop.can_map_host_memory, 0);
  FAILS(orGetDeviceProperties(&prop, 2), orErrorInvalidDevice, "got 2");
  FAILS(orGetDeviceProperties(&prop, -1), orErrorInvalidDevice, "got -1");
  FAILS(orGetDeviceProperties(nullptr, 0), orErrorInvalidValue, "prop");
}

TEST_ENV(VisibleDevicesFilterAndOrder, "OPENREG_DEVICE_COUNT=4 OPENREG_VISIBLE_DEVICES=3,1") {
  int count;
  OK(orGetDeviceCount(&count));
  EXPECT_EQ(count, 2);
  orDeviceProp first, second;
  OK(orGetDeviceProperties(&first, 0));
  OK(orGetDeviceProperties(&second, 1));
  EXPECT_EQ(first.uuid[15], 3);
  EXPECT_EQ(second.uuid[15], 1);
}

TEST_ENV(NoVisibleDevice, "OPENREG_VISIBLE_DEVICES=") {
  int count;
  OK(orGetDeviceCount(&count));
  EXPECT_EQ(count, 0);
  void* memory;
  FAILS(orMalloc(&memory, 16), orErrorInvalidDevice, "no device is visible");
  FAILS(orSetDevice(0), orErrorInvalidDevice, "got 0");
  FAILS(orStreamSynchronize(nullptr), orErrorInvalidDevice, "no device");
}

TEST(BadSettingsAreReportedAndRecoverable) {
  struct {
    const char* name;
    const char* value;
  } bad[] = {
      {"OPENREG_DEVICE_COUNT", "two"},   {"OPENREG_DEVICE_COUNT", "-1"},
      {"OPENREG_DEVICE_COUNT", "65"},    {"OPENREG_DEVICE_COUNT", ""},
      {"OPENREG_VISIBLE_DEVICES", "2"},  {"OPENREG_VISIBLE_DEVICES", "0,0"},
      {"OPENREG_VISIBLE_DEVICES", "0,"}, {"OPENREG_VISIBLE_DEVICES", "0 1"},
      {"OPENREG_DEVICE_MEMORY", "8GB"},  {"OPENREG_DEVICE_MEMORY", "lots"},
      {"OPENREG_DEVICE_MEMORY", "0"},    {"OPENREG_DEVICE_MEMORY", "99999999999999999999G"},
      {"OPENREG_STICKY_ERRORS", "yes"},  {"OPENREG_LAUNCH_BLOCKING", "2"},
      {"OPENREG_MEMORY_CHECK", "on"},
  };
  for (auto& setting : bad) {
    const char* before = getenv(setting.name);
    std::string saved = before ? before : "";
    setenv(setting.name, setting.value, 1);
    void* memory;
    EXPECT_EQ(orMalloc(&memory, 16), orErrorInitialization);
    EXPECT(strstr(orGetLastErrorMessage(), setting.name));
    EXPECT(strstr(orGetLastErrorMessage(), "expected"));
    EXPECT(strstr(orGetLastErrorMessage(), (std::string("\"") + setting.value + "\"").c_str()));
    if (before) {
      setenv(setting.name, saved.c_str(), 1);
    } else {
      unsetenv(setting.name);
    }
  }
  void* memory;
  OK(orMalloc(&memory, 16));
}

TEST(MemorySizesAreUnderstood) {
  struct {
    const char* text;
    const char* bytes;
  } sizes[] = {{"OPENREG_DEVICE_MEMORY=8GiB", "8589934592"},
               {"OPENREG_DEVICE_MEMORY=8G", "8589934592"},
               {"OPENREG_DEVICE_MEMORY=512MiB", "536870912"},
               {"OPENREG_DEVICE_MEMORY=512M", "536870912"},
               {"OPENREG_DEVICE_MEMORY=4194304", "4194304"}};
  for (auto& size : sizes) {
    Outcome outcome = runChild("ChildPrintsCapacity", size.text);
    EXPECT_EQ(outcome.status, 0);
    EXPECT(outcome.errors == size.bytes);
  }
}

CHILD(ChildPrintsCapacity) {
  size_t free, total;
  OK(orMemGetInfo(&free, &total));
  EXPECT_EQ(free, total);
  fprintf(stderr, "%zu", total);
}

TEST(CurrentDeviceIsPerThread) {
  OK(orSetDevice(1));
  std::thread([] {
    int device = -1;
    OK(orGetDevice(&device));
    EXPECT_EQ(device, 0);
  }).join();
  int device = -1;
  OK(orGetDevice(&device));
  EXPECT_EQ(device, 1);
  orStream_t stream, expected;
  OK(orDeviceGetDefaultStream(&expected, 1));
  OK(orStreamGetDevice(nullptr, &device));
  EXPECT_EQ(device, 1);
  OK(orDeviceGetDefaultStream(&stream, 1));
  EXPECT(stream == expected);
}

TEST(PeerAccess) {
  int can = -1;
  OK(orDeviceCanAccessPeer(&can, 0, 1));
  EXPECT_EQ(can, 1);
  OK(orDeviceCanAccessPeer(&can, 1, 1));
  EXPECT_EQ(can, 0);
  FAILS(orDeviceDisablePeerAccess(1), orErrorPeerAccessNotEnabled, "device 0 to 1");
  OK(orDeviceEnablePeerAccess(1, 0));
  FAILS(orDeviceEnablePeerAccess(1, 0), orErrorPeerAccessAlreadyEnabled, "already");
  OK(orDeviceDisablePeerAccess(1));
  FAILS(orDeviceEnablePeerAccess(0, 0), orErrorInvalidDevice, "another device");
  FAILS(orDeviceEnablePeerAccess(5, 0), orErrorInvalidDevice, "got 5");
  FAILS(orDeviceEnablePeerAccess(1, 3), orErrorInvalidValue, "flags");
}

TEST(DeviceSynchronizeWaitsForAllItsStreamsOnly) {
  Gate gate, other;
  orStream_t streams[3];
  std::atomic<int> done{0};
  for (auto& stream : streams) {
    OK(orStreamCreate(&stream));
    OK(launch(stream, "wait", [&] {
      gate.wait();
      done++;
    }));
  }
  OK(orSetDevice(1));
  OK(launch(nullptr, "other", [&] { other.wait(); }));
  OK(orSetDevice(0));
  std::thread opener([&] {
    gate.waitForArrivals(3);
    gate.open();
  });
  OK(orDeviceSynchronize()); // with device 1 still held up
  EXPECT_EQ(done.load(), 3);
  opener.join();
  other.open();
  OK(orSetDevice(1));
  OK(orDeviceSynchronize());
}

TEST(ResetReleasesEverything) {
  size_t free_before, free_after, total;
  OK(orMemGetInfo(&free_before, &total));
  orStream_t stream;
  OK(orStreamCreate(&stream));
  orEvent_t event;
  OK(orEventCreate(&event, orEventDefault));
  void *memory, *other_memory;
  OK(orMalloc(&memory, 1 << 20));
  OK(orDeviceEnablePeerAccess(1, 0));
  OK(orSetDevice(1));
  orStream_t other;
  OK(orStreamCreate(&other));
  OK(orMalloc(&other_memory, 1 << 20));
  OK(orSetDevice(0));
  int ran = 0;
  OK(launch(stream, "work", [&] { ran = 1; }));
  OK(launch(stream, "bad", [](const orLaunchContext* context) {
    return orKernelFail(context, orErrorLaunchValue, "x");
  }));
  OK(orEventRecord(event, stream));
  OK(orDeviceReset());
  EXPECT_EQ(ran, 1);
  FAILS(orStreamQuery(stream), orErrorInvalidResourceHandle, "destroyed");
  FAILS(orEventQuery(event), orErrorInvalidResourceHandle, "destroyed");
  FAILS(orFree(memory), orErrorInvalidDevicePointer, "not freed yet");
  OK(orDeviceSynchronize()); // the error is gone
  OK(orMemGetInfo(&free_after, &total));
  EXPECT_EQ(free_after, free_before);
  FAILS(orDeviceDisablePeerAccess(1), orErrorPeerAccessNotEnabled, "not enabled");
  // The default stream and the other device go on.
  OK(launch(nullptr, "again", [&] { ran = 2; }));
  OK(orStreamSynchronize(nullptr));
  EXPECT_EQ(ran, 2);
  OK(orStreamQuery(other));
  OK(orFree(other_memory));
}

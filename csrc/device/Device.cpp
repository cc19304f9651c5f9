#include "Device.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "Capture.h"
#include "Config.h"
#include "Event.h"
#include "Stream.h"
#include "Trace.h"

namespace openreg {
namespace {

// Filled by createDevices before anybody may look; never released.
Device* devices[kMaxDevices];
int count = 0;

// Read by every call with a NULL stream: constant-initialised, so that access
// needs no guard.
thread_local int currentOrdinal = 0;

int computeCores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    return CPU_COUNT(&set);
  }
  return static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
}

} // namespace

Device::Device(int ordinal_, int physical_)
    : ordinal(ordinal_), physical(physical_), heap(ordinal_) {}

void createDevices() {
  const std::vector<int>& visible = config().visible_devices;
  for (size_t i = 0; i < visible.size(); ++i) {
    auto* device = new Device(static_cast<int>(i), visible[i]);
    device->default_stream = Stream::create(device, 0);
    devices[count++] = device;
  }
}

int deviceCount() {
  return count;
}

Device& deviceAt(int ordinal) {
  return *devices[ordinal];
}

orError_t currentDevice(Device** device) {
  if (OR_UNLIKELY(count == 0)) {
    fail(orErrorInvalidDevice, "no device is visible (see OPENREG_DEVICE_COUNT and "
                               "OPENREG_VISIBLE_DEVICES)");
    return orErrorInvalidDevice; // here, so that compilers see it
  }
  *device = devices[currentOrdinal];
  return orSuccess;
}

orError_t deviceByOrdinal(const char* caller, const char* argument, int ordinal, Device** device) {
  if (ordinal < 0 || ordinal >= deviceCount()) {
    fail(orErrorInvalidDevice, "%s: %s must be a device from 0 to %d, got %d", caller, argument,
         deviceCount() - 1, ordinal);
    return orErrorInvalidDevice;
  }
  *device = devices[ordinal];
  return orSuccess;
}

void Device::recordError(orError_t code, const std::string& message) {
  std::lock_guard<std::mutex> guard(error_mutex_);
  if (error_ != orSuccess) {
    return;
  }
  error_ = code;
  error_message_ = message;
  publishPending();
}

// What the members without a lock say.
void Device::publishPending() {
  held_.store(!holds_.empty());
  error_pending_.store(!holds_.empty() || error_ != orSuccess, std::memory_order_release);
  const bool sticky = !holds_.empty() || (config().sticky_errors && error_ != orSuccess);
  if (sticky_.exchange(sticky) != sticky) {
    publishSticky();
  }
}

void Device::publishSticky() {
  static auto* mutex = new std::mutex();
  std::lock_guard<std::mutex> guard(*mutex);
  bool any = false;
  for (int i = 0; i < count; ++i) {
    any |= devices[i]->sticky_.load();
  }
  if (any) {
    runtimeFlags.fetch_or(kStickyError);
  } else {
    runtimeFlags.fetch_and(~uint32_t(kStickyError));
  }
}

bool Device::hold(uint64_t hang, const std::string& message) {
  std::lock_guard<std::mutex> guard(error_mutex_);
  for (const Hold& hold : holds_) {
    if (hold.hang == hang) {
      return false;
    }
  }
  holds_.push_back({hang, message, false});
  publishPending();
  return true;
}

void Device::endHold(uint64_t hang) {
  std::lock_guard<std::mutex> guard(error_mutex_);
  for (auto hold = holds_.begin(); hold != holds_.end(); ++hold) {
    if (hold->hang == hang) {
      // Nobody has heard of it, or the error is to stay.
      if (error_ == orSuccess && (!hold->reported || config().sticky_errors)) {
        error_ = orErrorLaunchTimeout;
        error_message_ = hold->message;
      }
      holds_.erase(hold);
      break;
    }
  }
  publishPending();
}

orError_t Device::failHeld() {
  holds_.front().reported = true;
  return fail(orErrorLaunchTimeout, "%s", holds_.front().message.c_str());
}

orError_t Device::checkHold() {
  std::lock_guard<std::mutex> guard(error_mutex_);
  return holds_.empty() ? orSuccess : failHeld();
}

orError_t Device::takeErrorSlow() {
  orError_t error;
  std::string message;
  {
    std::lock_guard<std::mutex> guard(error_mutex_);
    if (!holds_.empty()) {
      return failHeld();
    }
    if (error_ == orSuccess) {
      return orSuccess;
    }
    error = error_;
    message = error_message_;
    if (!config().sticky_errors) {
      error_ = orSuccess;
      publishPending();
    }
  }
  return fail(error, "%s", message.c_str());
}

void Device::clearError() {
  std::lock_guard<std::mutex> guard(error_mutex_);
  error_ = orSuccess;
  publishPending();
}

std::vector<Stream*> Device::referenceStreams() {
  std::lock_guard<std::mutex> guard(streams_mutex_);
  for (Stream* stream : streams_) {
    streamPool.addReference(stream);
  }
  return streams_;
}

void Device::addStream(Stream* stream) {
  std::lock_guard<std::mutex> guard(streams_mutex_);
  streams_.push_back(stream);
}

void Device::removeStream(Stream* stream) {
  std::lock_guard<std::mutex> guard(streams_mutex_);
  streams_.erase(std::find(streams_.begin(), streams_.end(), stream));
}

orError_t Device::waitForAll(const char* caller) {
  Stream* own = Stream::ofThisThread();
  if (own && own->device == this) {
    return fail(orErrorNotSupported, "%s: called by work of device %d, which would wait for itself",
                caller, ordinal);
  }
  orError_t error = orSuccess;
  for (Stream* stream : referenceStreams()) {
    error = error == orSuccess ? stream->waitFor(stream->issued()) : error;
    streamPool.release(stream);
  }
  return error;
}

orError_t Device::reset() {
  OR_TRY(waitForAll("orDeviceReset"));
  streamPool.forEach([this](Stream* stream, const void* handle) {
    if (stream->device == this && stream != default_stream) {
      stream->destroy(handle);
    }
  });
  destroyEventsOf(this);
  heap.reset();
  peers.store(0);
  clearError();
  return orSuccess;
}

} // namespace openreg

using namespace openreg;

orError_t orGetDeviceCount(int* count) {
  if (!count) {
    return fail(orErrorInvalidValue, "orGetDeviceCount: count is NULL");
  }
  if (hasFlag(kForked)) {
    return ensureReady();
  }
  if (!hasFlag(kUninitialized)) {
    *count = deviceCount();
    return orSuccess;
  }
  Config settings;
  OR_TRY(readConfig(&settings));
  *count = static_cast<int>(settings.visible_devices.size());
  return orSuccess;
}

orError_t orGetDeviceProperties(orDeviceProp* prop, int device) {
  OR_TRY(ensureReady());
  Device* found;
  OR_TRY(deviceByOrdinal("orGetDeviceProperties", "device", device, &found));
  if (!prop) {
    return fail(orErrorInvalidValue, "orGetDeviceProperties: prop is NULL");
  }
  memset(prop, 0, sizeof(*prop));
  snprintf(prop->name, sizeof(prop->name), "%s", config().profiles[device].name.c_str());
  prop->total_memory = found->heap.capacity();
  prop->major = 1;
  prop->minor = 0;
  prop->multi_processor_count = computeCores();
  prop->max_threads_per_block = 1024;
  prop->warp_size = 32;
  long l2 = sysconf(_SC_LEVEL2_CACHE_SIZE);
  prop->l2_cache_size = l2 > 0 ? static_cast<size_t>(l2) : size_t(1) << 20;
  prop->concurrent_kernels = 1;
  prop->unified_addressing = 1;
  prop->can_map_host_memory = 0;
  // The same device has the same id in every process, however it is numbered.
  memcpy(prop->uuid, "openreg-device", 14);
  prop->uuid[15] = static_cast<uint8_t>(found->physical);
  return orSuccess;
}

orError_t orGetDevice(int* device) {
  if (hasFlag(kForked)) {
    return ensureReady();
  }
  if (!device) {
    return fail(orErrorInvalidValue, "orGetDevice: device is NULL");
  }
  *device = currentOrdinal;
  return orSuccess;
}

orError_t orSetDevice(int device) {
  OR_TRY(ensureReady());
  Device* found;
  OR_TRY(deviceByOrdinal("orSetDevice", "device", device, &found));
  currentOrdinal = device;
  return orSuccess;
}

orError_t orDeviceSynchronize(void) {
  OR_TRY(ensureReady());
  Device* device;
  OR_TRY(currentDevice(&device));
  OR_TRY(checkWait("orDeviceSynchronize", device));
  SyncTrace trace("deviceSynchronize", device->ordinal, 0);
  OR_TRY(device->waitForAll("orDeviceSynchronize"));
  return trace.end(device->takeError());
}

orError_t orDeviceReset(void) {
  OR_TRY(ensureReady());
  Device* device;
  OR_TRY(currentDevice(&device));
  OR_TRY(checkWait("orDeviceReset", device));
  return device->reset();
}

orError_t orDeviceCanAccessPeer(int* can, int device, int peer) {
  OR_TRY(ensureReady());
  Device* unused;
  OR_TRY(deviceByOrdinal("orDeviceCanAccessPeer", "device", device, &unused));
  OR_TRY(deviceByOrdinal("orDeviceCanAccessPeer", "peer", peer, &unused));
  if (!can) {
    return fail(orErrorInvalidValue, "orDeviceCanAccessPeer: can is NULL");
  }
  *can = device != peer;
  return orSuccess;
}

orError_t orDeviceEnablePeerAccess(int peer, unsigned flags) {
  OR_TRY(ensureReady());
  Device *device, *other;
  OR_TRY(currentDevice(&device));
  OR_TRY(deviceByOrdinal("orDeviceEnablePeerAccess", "peer", peer, &other));
  if (flags != 0) {
    return fail(orErrorInvalidValue, "orDeviceEnablePeerAccess: flags must be 0, got %u", flags);
  }
  if (device == other) {
    return fail(orErrorInvalidDevice,
                "orDeviceEnablePeerAccess: peer must be another device than the "
                "current one, %d",
                peer);
  }
  uint64_t bit = uint64_t(1) << peer;
  if (device->peers.fetch_or(bit) & bit) {
    return fail(orErrorPeerAccessAlreadyEnabled,
                "orDeviceEnablePeerAccess: access of device %d to %d is already enabled",
                device->ordinal, peer);
  }
  return orSuccess;
}

orError_t orDeviceDisablePeerAccess(int peer) {
  OR_TRY(ensureReady());
  Device *device, *other;
  OR_TRY(currentDevice(&device));
  OR_TRY(deviceByOrdinal("orDeviceDisablePeerAccess", "peer", peer, &other));
  uint64_t bit = uint64_t(1) << peer;
  if (!(device->peers.fetch_and(~bit) & bit)) {
    return fail(orErrorPeerAccessNotEnabled,
                "orDeviceDisablePeerAccess: access of device %d to %d is not enabled",
                device->ordinal, peer);
  }
  return orSuccess;
}

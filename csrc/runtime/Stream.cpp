#include "runtime/Stream.h"

#include <c10/core/impl/GPUTrace.h>
#include <c10/util/Exception.h>

#include <array>
#include <atomic>
#include <limits>
#include <mutex>

namespace c10::openreg {
namespace {

// Note [Stream pools]
// A pool stream's id is 1 + 2 * slot + urgent, so that the id tells where its
// handle is. Slots are filled at first use, not all at once: a stream of the
// device costs a worker thread. Pool streams live as long as the process, since
// nobody counts the copies of a c10::Stream.
constexpr int kStreamsPerPool = 32;
constexpr int kPriorities = 2; // 0: priority 0; 1: priority -1
constexpr StreamId kPoolEnd = 1 + kPriorities * kStreamsPerPool;
constexpr int kMaxDevices = std::numeric_limits<DeviceIndex>::max() + 1;

struct DeviceStreams {
  std::mutex creation;
  std::atomic<orStream_t> default_stream{nullptr};
  std::array<std::atomic<orStream_t>, kPoolEnd> pool{};
  std::array<std::atomic<uint32_t>, kPriorities> next{};
};

// Never destroyed: other threads may still launch while the process exits.
DeviceStreams& device_streams(DeviceIndex device) {
  static auto* all = new std::array<DeviceStreams, kMaxDevices>();
  return (*all)[device];
}

struct CurrentStream {
  StreamId id;
  orStream_t handle; // NULL until the thread has used the device
};
thread_local std::array<CurrentStream, kMaxDevices> current_streams{};

DeviceIndex resolve(DeviceIndex device) {
  if (device == -1) {
    return current_device();
  }
  check_device(device);
  return device;
}

Stream make_stream(StreamId id, DeviceIndex device) {
  return Stream(Stream::UNSAFE, Device(DeviceType::PrivateUse1, device), id);
}

orStream_t default_stream_handle(DeviceIndex device) {
  auto& slot = device_streams(device).default_stream;
  orStream_t handle = slot.load(std::memory_order_acquire);
  if (C10_UNLIKELY(handle == nullptr)) {
    OPENREG_CHECK(orDeviceGetDefaultStream(&handle, device));
    slot.store(handle, std::memory_order_release);
  }
  return handle;
}

orStream_t create_pool_stream(StreamId id, DeviceIndex device) {
  DeviceStreams& streams = device_streams(device);
  const std::lock_guard<std::mutex> lock(streams.creation);
  if (auto* handle = streams.pool[id].load(std::memory_order_acquire)) {
    return handle;
  }
  struct Restore {
    DeviceIndex device;
    ~Restore() {
      orSetDevice(device);
    }
  } const restore{exchange_device(device)};
  const int priority = -static_cast<int>((id - 1) % kPriorities);
  orStream_t handle = nullptr;
  default_stream_handle(device); // see has_context
  OPENREG_CHECK(orStreamCreateWithPriority(&handle, orStreamNonBlocking, priority));
  streams.pool[id].store(handle, std::memory_order_release);
  if (const auto* trace = impl::GPUTrace::get_trace(); C10_UNLIKELY(trace)) {
    (*trace)->trace_gpu_stream_creation(DeviceType::PrivateUse1,
                                        reinterpret_cast<uintptr_t>(handle));
  }
  return handle;
}

orStream_t stream_handle(StreamId id, DeviceIndex device) {
  check_device(device); // torch.Stream can be made of any three integers
  if (id == 0) {
    return default_stream_handle(device);
  }
  if (id > 0 && id < kPoolEnd) {
    orStream_t handle = device_streams(device).pool[id].load(std::memory_order_acquire);
    return C10_LIKELY(handle != nullptr) ? handle : create_pool_stream(id, device);
  }
  // No page is mapped at the lowest addresses, so a small number is a mistake
  // and not an external stream.
  TORCH_CHECK(id < 0 || id >= 4096, "openreg:", static_cast<int>(device), ": no stream has the id ",
              id);
  return reinterpret_cast<orStream_t>(id);
}

} // namespace

OpenRegStream::OpenRegStream(c10::Stream stream) : stream_(stream) {
  TORCH_CHECK(stream.device_type() == DeviceType::PrivateUse1,
              "expected a stream of an openreg device, got one of ", stream.device());
}

orStream_t OpenRegStream::handle() const {
  return stream_handle(id(), device_index());
}

int OpenRegStream::priority() const {
  int priority = 0;
  OPENREG_CHECK(orStreamGetPriority(handle(), &priority));
  return priority;
}

bool OpenRegStream::query() const {
  const orError_t error = orStreamQuery(handle());
  if (error == orErrorNotReady) {
    return false;
  }
  OPENREG_CHECK(error);
  return true;
}

void OpenRegStream::synchronize() const {
  orStream_t const stream = handle();
  if (const auto* trace = impl::GPUTrace::get_trace(); C10_UNLIKELY(trace)) {
    (*trace)->trace_gpu_stream_synchronization(DeviceType::PrivateUse1,
                                               reinterpret_cast<uintptr_t>(stream));
  }
  OPENREG_CHECK(orStreamSynchronize(stream));
}

OpenRegStream get_default_stream(DeviceIndex device) {
  return OpenRegStream(make_stream(0, resolve(device)));
}

OpenRegStream get_current_stream(DeviceIndex device) {
  device = resolve(device);
  // A zero id is the default stream's: what a thread starts with.
  return OpenRegStream(make_stream(current_streams[device].id, device));
}

void set_current_stream(OpenRegStream stream) {
  const DeviceIndex device = stream.device_index();
  check_device(device);
  current_streams[device] = {stream.id(), stream.handle()};
}

OpenRegStream get_stream_from_pool(int priority, DeviceIndex device) {
  device = resolve(device);
  const int urgent = priority < 0 ? 1 : 0;
  const uint32_t slot =
      device_streams(device).next[urgent].fetch_add(1, std::memory_order_relaxed) % kStreamsPerPool;
  const StreamId id = 1 + kPriorities * static_cast<StreamId>(slot) + urgent;
  stream_handle(id, device); // creates it, so that errors surface here
  return OpenRegStream(make_stream(id, device));
}

OpenRegStream get_external_stream(orStream_t handle, DeviceIndex device) {
  device = resolve(device);
  if (handle == nullptr) {
    return get_default_stream(device);
  }
  int owner = -1;
  OPENREG_CHECK(orStreamGetDevice(handle, &owner));
  TORCH_CHECK_VALUE(owner == device, "the external stream belongs to openreg:", owner,
                    ", not to openreg:", static_cast<int>(device));
  return OpenRegStream(make_stream(reinterpret_cast<StreamId>(handle), device));
}

bool has_context(DeviceIndex device) {
  return device_streams(device).default_stream.load(std::memory_order_acquire) != nullptr;
}

orStream_t current_stream_handle(DeviceIndex device) {
  CurrentStream& current = current_streams[device];
  if (C10_UNLIKELY(current.handle == nullptr)) {
    check_device(device);
    current.handle = default_stream_handle(device);
  }
  return current.handle;
}

} // namespace c10::openreg

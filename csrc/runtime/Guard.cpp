// The device guard: c10's one virtual interface to an accelerator's current
// device, current stream and events. Called by DeviceGuard and StreamGuard
// around every operator, by torch.Stream, torch.Event and torch.accelerator,
// and by the autograd engine, whose threads switch device and stream for each
// node. Any thread may call any function; those that wait are called without
// the GIL.

#include <c10/core/DeviceCapability.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/GPUTrace.h>

#include "runtime/CachingAllocator.h"
#include "runtime/Capture.h"
#include "runtime/Dtypes.h"
#include "runtime/Event.h"
#include "runtime/Stream.h"

namespace c10::openreg {
namespace {

constexpr DeviceType kOpenReg = DeviceType::PrivateUse1;

const impl::PyInterpreterVTable* trace() {
  const impl::PyInterpreter* interpreter = impl::GPUTrace::get_trace();
  return C10_UNLIKELY(interpreter != nullptr) ? &**interpreter : nullptr;
}

uintptr_t trace_id(const void* handle) {
  return reinterpret_cast<uintptr_t>(handle);
}

// What the thread's next record is to make of its event instead of recording it.
thread_local constinit orEvent_t adopted_event = nullptr;

struct OpenRegGuardImpl final : public impl::DeviceGuardImplInterface {
  DeviceType type() const override {
    return kOpenReg;
  }

  // Devices

  Device exchangeDevice(Device device) const override {
    TORCH_INTERNAL_ASSERT(device.type() == kOpenReg);
    return Device(kOpenReg, exchange_device(device.index()));
  }

  Device getDevice() const override {
    return Device(kOpenReg, current_device());
  }

  void setDevice(Device device) const override {
    TORCH_INTERNAL_ASSERT(device.type() == kOpenReg);
    exchange_device(device.index());
  }

  // The end of every guard: most have changed nothing.
  void uncheckedSetDevice(Device device) const noexcept override {
    int current = -1;
    if (orGetDevice(&current) == orSuccess && current == device.index()) {
      return;
    }
    if (orSetDevice(device.index()) != orSuccess) {
      orGetLastError();
    }
  }

  DeviceIndex deviceCount() const noexcept override {
    return device_count();
  }

  // What tensors of the device may hold: all types but the quantized ones,
  // whose kernels belong to another dispatch key.
  DeviceCapability getDeviceCapability(Device device) const override {
    const DeviceIndex index = with_index(device).index();
    check_device(index);
    DeviceCapability capability;
    auto& types = capability.capability_data.supported_scalar_types;
    types.has_QInt8 = 0;
    types.has_QUInt8 = 0;
    types.has_QInt32 = 0;
    types.has_QUInt4x2 = 0;
    types.has_QUInt2x4 = 0;
#define OPENREG_DROP_MISSING(_, name)                                                              \
  if (!has_dtype(index, ScalarType::name)) {                                                       \
    types.has_##name = 0;                                                                          \
  }
    AT_FORALL_SCALAR_TYPES_WITH_COMPLEX_AND_QINTS(OPENREG_DROP_MISSING)
#undef OPENREG_DROP_MISSING
    return capability;
  }

  void synchronizeDevice(const DeviceIndex device) const override {
    device_synchronize(device);
  }

  // Streams

  Stream getStream(Device device) const override {
    return get_current_stream(device.index()).unwrap();
  }

  Stream getDefaultStream(Device device) const override {
    return get_default_stream(device.index()).unwrap();
  }

  Stream getStreamFromGlobalPool(Device device, bool isHighPriority) const override {
    return get_stream_from_pool(isHighPriority ? -1 : 0, device.index()).unwrap();
  }

  // torch.Stream("openreg") passes an index of -1: the current device.
  Stream getNewStream(Device device, int priority) const override {
    return get_stream_from_pool(priority, device.index()).unwrap();
  }

  Stream exchangeStream(Stream stream) const override {
    const OpenRegStream next(stream);
    const Stream previous = get_current_stream(next.device_index()).unwrap();
    set_current_stream(next);
    return previous;
  }

  void* getStreamNativeHandle(const Stream stream) const override {
    return OpenRegStream(stream).handle();
  }

  bool queryStream(const Stream& stream) const override {
    return OpenRegStream(stream).query();
  }

  void synchronizeStream(const Stream& stream) const override {
    OpenRegStream(stream).synchronize();
  }

  bool isStreamCapturing(const Stream& stream) const override {
    return is_capturing(OpenRegStream(stream).handle());
  }

  void recordDataPtrOnStream(const DataPtr& ptr, const Stream& stream) const override {
    if (CachingAllocator::owns(ptr)) {
      CachingAllocator::record_stream(ptr, OpenRegStream(stream));
    }
  }

  // Events: the void* is an orEvent_t, created at the first record.

  void record(void** event,
              const Stream& stream,
              const DeviceIndex device_index,
              const EventFlag flag) const override {
    TORCH_CHECK(
        device_index == -1 || device_index == stream.device_index(),
        "an event of openreg:", static_cast<int>(device_index),
        " cannot be recorded on a stream of openreg:", static_cast<int>(stream.device_index()));
    if (C10_UNLIKELY(adopted_event != nullptr)) {
      *event = std::exchange(adopted_event, nullptr);
      return;
    }
    orStream_t const handle = OpenRegStream(stream).handle();
    auto* recorded = static_cast<orEvent_t>(*event);
    if (recorded == nullptr) {
      recorded = create_event(stream.device_index(), flag);
      *event = recorded;
    }
    OPENREG_CHECK(orEventRecord(recorded, handle));
    if (const auto* tracer = trace()) {
      tracer->trace_gpu_event_record(kOpenReg, trace_id(recorded), trace_id(handle));
    }
  }

  void block(void* event, const Stream& stream) const override {
    if (event == nullptr) {
      return; // never recorded: nothing to wait for
    }
    orStream_t const handle = OpenRegStream(stream).handle();
    OPENREG_CHECK(orStreamWaitEvent(handle, static_cast<orEvent_t>(event), 0));
    if (const auto* tracer = trace()) {
      tracer->trace_gpu_event_wait(kOpenReg, trace_id(event), trace_id(handle));
    }
  }

  bool queryEvent(void* event) const override {
    if (event == nullptr) {
      return true;
    }
    const orError_t error = orEventQuery(static_cast<orEvent_t>(event));
    if (error == orErrorNotReady) {
      return false;
    }
    OPENREG_CHECK(error);
    return true;
  }

  void synchronizeEvent(void* event) const override {
    if (event == nullptr) {
      return;
    }
    if (const auto* tracer = trace()) {
      tracer->trace_gpu_event_synchronization(kOpenReg, trace_id(event));
    }
    OPENREG_CHECK(orEventSynchronize(static_cast<orEvent_t>(event)));
  }

  double
  elapsedTime(void* event1, void* event2, const DeviceIndex /*device_index*/) const override {
    TORCH_CHECK(event1 != nullptr && event2 != nullptr,
                "Both events must be recorded before calculating elapsed time.");
    float milliseconds = 0;
    OPENREG_CHECK(orEventElapsedTime(&milliseconds, static_cast<orEvent_t>(event1),
                                     static_cast<orEvent_t>(event2)));
    return milliseconds;
  }

  void destroyEvent(void* event, const DeviceIndex /*device_index*/) const noexcept override {
    if (event == nullptr) {
      return;
    }
    if (const auto* tracer = trace()) {
      tracer->trace_gpu_event_deletion(kOpenReg, trace_id(event));
    }
    // Nobody is left to hear of a failure, which a forked child has.
    if (orEventDestroy(static_cast<orEvent_t>(event)) != orSuccess) {
      orGetLastError();
    }
  }

 private:
  // On the stream's device, as the device library creates events there.
  orEvent_t create_event(DeviceIndex device, EventFlag flag) const {
    unsigned flags = orEventDefault;
    switch (flag) {
      case EventFlag::PYTORCH_DEFAULT:
        flags = orEventDisableTiming;
        break;
      case EventFlag::BACKEND_DEFAULT:
        flags = orEventDefault;
        break;
      default:
        TORCH_CHECK(false, "openreg event received an unknown flag");
    }
    const DeviceIndex previous = exchange_device(device);
    orEvent_t event = nullptr;
    const orError_t error = orEventCreate(&event, flags);
    orSetDevice(previous);
    OPENREG_CHECK(error);
    if (const auto* tracer = trace()) {
      tracer->trace_gpu_event_creation(kOpenReg, trace_id(event));
    }
    return event;
  }
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, OpenRegGuardImpl);

} // namespace

// A c10::Event gets its handle only from the guard, at its first record.
void adopt_event(c10::Event& event, orEvent_t handle, DeviceIndex device) {
  TORCH_CHECK(event.eventId() == nullptr, "the event was recorded already");
  adopted_event = handle;
  event.record(get_default_stream(device).unwrap());
  if (const auto* tracer = trace()) {
    tracer->trace_gpu_event_creation(kOpenReg, trace_id(handle));
  }
}

} // namespace c10::openreg

// How torch.autograd.profiler times operators without Kineto
// (profile(use_device="openreg")): it records an event on the current stream
// before and after each operator.

#include <c10/util/ApproximateClock.h>
#include <torch/csrc/profiler/standalone/privateuse1_observer.h>
#include <torch/csrc/profiler/stubs/base.h>

#include "runtime/Event.h"
#include "runtime/ProfilerRanges.h"

namespace c10::openreg {
namespace {

using torch::profiler::impl::ProfilerVoidEventStub;

class Stubs final : public torch::profiler::impl::ProfilerStubs {
 public:
  void
  record(c10::DeviceIndex* device, ProfilerVoidEventStub* event, int64_t* cpu_ns) const override {
    const OpenRegStream stream = get_current_stream();
    if (device != nullptr) {
      *device = stream.device_index();
    }
    auto recorded = std::make_shared<OpenRegEvent>(orEventDefault);
    recorded->record(stream);
    *event = std::move(recorded);
    if (cpu_ns != nullptr) {
      *cpu_ns = c10::getTime();
    }
  }

  // Microseconds.
  float elapsed(const ProfilerVoidEventStub* start,
                const ProfilerVoidEventStub* end) const override {
    const auto* first = static_cast<const OpenRegEvent*>(start->get());
    const auto* second = static_cast<const OpenRegEvent*>(end->get());
    first->synchronize();
    second->synchronize();
    return static_cast<float>(first->elapsed_time(*second) * 1000);
  }

  void mark(const char* name) const override {
    range_mark(name);
  }
  void rangePush(const char* name) const override {
    range_push(name);
  }
  void rangePop() const override {
    range_pop();
  }

  void onEachDevice(std::function<void(int)> function) const override {
    const DeviceIndex before = current_device();
    for (DeviceIndex device = 0; device < device_count(); ++device) {
      set_device(device);
      function(device);
    }
    set_device(before);
  }

  void synchronize() const override {
    device_synchronize(current_device());
  }

  bool enabled() const override {
    return device_count() > 0;
  }
};

// ProfilerState.PRIVATEUSE1, which emits markers for a vendor's own profiler.
void push_callbacks(const torch::profiler::impl::ProfilerConfig&,
                    const std::unordered_set<at::RecordScope>&) {
  TORCH_CHECK_NOT_IMPLEMENTED(false, "openreg has no external profiler to emit markers for; use "
                                     "torch.profiler.profile with ProfilerActivity.PrivateUse1");
}

const bool registered = [] {
  static const Stubs stubs;
  torch::profiler::impl::registerPrivateUse1Methods(const_cast<Stubs*>(&stubs));
  torch::profiler::impl::pushPRIVATEUSE1CallbacksStub.set_privateuse1_dispatch_ptr(&push_callbacks);
  return true;
}();

} // namespace
} // namespace c10::openreg

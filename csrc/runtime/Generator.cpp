#include "runtime/Generator.h"

#include <ATen/CPUGeneratorImpl.h>
#include <c10/core/Storage.h>

#include <thread>
#include <vector>

#include "runtime/Capture.h"
#include "runtime/Graph.h"
#include "runtime/StreamPoint.h"

namespace at::openreg {
namespace {

at::Generator new_cpu_generator(uint64_t seed) {
  return at::make_generator<at::CPUGeneratorImpl>(seed);
}

// A new seed or state would not become part of the graph.
void check_not_capturing(c10::DeviceIndex device, const char* function) {
  TORCH_CHECK(!c10::openreg::has_context(device) ||
                  !c10::openreg::is_capturing(c10::openreg::current_stream_handle(device)),
              "Cannot call OpenRegGeneratorImpl::", function, " during graph capture");
}

} // namespace

OpenRegGeneratorImpl::OpenRegGeneratorImpl(c10::DeviceIndex device)
    : c10::GeneratorImpl(c10::Device(c10::DeviceType::PrivateUse1, device),
                         c10::DispatchKeySet(c10::DispatchKey::PrivateUse1)),
      cpu_(new_cpu_generator(c10::detail::getNonDeterministicRandom())) {
  cpu_.set_current_seed(c10::default_rng_seed_val);
}

OpenRegGeneratorImpl::~OpenRegGeneratorImpl() {
  if (event_ != nullptr) {
    orEventDestroy(event_);
  }
}

void OpenRegGeneratorImpl::set_current_seed(uint64_t seed) {
  check_not_capturing(device().index(), "set_current_seed");
  std::lock_guard<std::mutex> guard(order_mutex_);
  cpu_ = new_cpu_generator(seed);
  last_stream_ = nullptr;
}

void OpenRegGeneratorImpl::set_offset(uint64_t) {
  TORCH_CHECK(false, "openreg generators have no offset: they draw the CPU's numbers");
}

uint64_t OpenRegGeneratorImpl::get_offset() const {
  TORCH_CHECK(false, "openreg generators have no offset: they draw the CPU's numbers");
}

uint64_t OpenRegGeneratorImpl::current_seed() const {
  std::lock_guard<std::mutex> guard(order_mutex_);
  return cpu_.current_seed();
}

uint64_t OpenRegGeneratorImpl::seed() {
  const uint64_t random = c10::detail::getNonDeterministicRandom();
  set_current_seed(random);
  return random;
}

void OpenRegGeneratorImpl::set_state(const c10::TensorImpl& new_state) {
  check_not_capturing(device().index(), "set_state");
  at::Generator replacement = new_cpu_generator(c10::default_rng_seed_val);
  replacement.get<at::CPUGeneratorImpl>()->set_state(new_state);
  std::lock_guard<std::mutex> guard(order_mutex_);
  cpu_ = std::move(replacement);
  last_stream_ = nullptr;
}

c10::intrusive_ptr<c10::TensorImpl> OpenRegGeneratorImpl::get_state() const {
  std::lock_guard<std::mutex> guard(order_mutex_);
  wait_for_draws();
  return cpu_.unsafeGetGeneratorImpl()->get_state();
}

OpenRegGeneratorImpl* OpenRegGeneratorImpl::clone_impl() const {
  std::lock_guard<std::mutex> guard(order_mutex_);
  wait_for_draws();
  auto* copy = new OpenRegGeneratorImpl(device().index());
  copy->cpu_ = cpu_.clone();
  return copy;
}

void OpenRegGeneratorImpl::wait_for_draws() const {
  if (last_stream_ != nullptr) {
    OPENREG_CHECK(orStreamSynchronize(last_stream_));
  }
}

OpenRegGeneratorImpl::Draw OpenRegGeneratorImpl::take(orStream_t stream) {
  std::unique_lock<std::mutex> lock(order_mutex_);
  if (const uint64_t capture = c10::openreg::capture_of(stream)) {
    return {std::move(lock), OpenRegGraph::captured_generator(capture, this)};
  }
  if (last_stream_ != nullptr && last_stream_ != stream &&
      c10::openreg::is_capturing(last_stream_)) {
    // An event there would draw this stream into the capture. What was queued
    // before it began is short work.
    while (!c10::openreg::StreamPoint::now(last_stream_).reached()) {
      std::this_thread::yield();
    }
    last_stream_ = nullptr;
  }
  if (last_stream_ != nullptr && last_stream_ != stream) {
    if (event_ == nullptr) {
      OPENREG_CHECK(orEventCreate(&event_, orEventDisableTiming));
    }
    OPENREG_CHECK(orEventRecord(event_, last_stream_));
    OPENREG_CHECK(orStreamWaitEvent(stream, event_, 0));
  }
  last_stream_ = stream;
  return {std::move(lock), cpu_};
}

const at::Generator& default_generator(c10::DeviceIndex device) {
  // Leaked: kernels may draw while the process exits.
  static auto* generators = [] {
    auto* all = new std::vector<at::Generator>();
    for (c10::DeviceIndex i = 0; i < c10::openreg::device_count(); ++i) {
      all->push_back(create_generator(i));
    }
    return all;
  }();
  const auto index = device < 0 ? c10::openreg::current_device() : device;
  c10::openreg::check_device(index);
  return (*generators)[index];
}

at::Generator create_generator(c10::DeviceIndex device) {
  const auto index = device < 0 ? c10::openreg::current_device() : device;
  c10::openreg::check_device(index);
  return at::make_generator<OpenRegGeneratorImpl>(index);
}

} // namespace at::openreg

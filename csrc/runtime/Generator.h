#pragma once

// The device's random number generator.
//
// Note [Random numbers]
// The numbers are the CPU's for the same seed: a device generator wraps a CPU
// generator, and kernels draw from that one while they run. So that the order
// of draws is the order of the host's calls whatever stream they go to, each
// launch that draws waits for the one before it (see take), and a new seed or
// state replaces the wrapped generator instead of changing it under work that
// is still queued.

#include <ATen/core/Generator.h>
#include <c10/core/GeneratorImpl.h>

#include <mutex>

#include "runtime/Stream.h"

namespace at::openreg {

class OPENREG_API OpenRegGeneratorImpl final : public c10::GeneratorImpl {
 public:
  explicit OpenRegGeneratorImpl(c10::DeviceIndex device);
  ~OpenRegGeneratorImpl() override;

  void set_current_seed(uint64_t seed) override;
  void set_offset(uint64_t offset) override;
  uint64_t get_offset() const override;
  uint64_t current_seed() const override;
  uint64_t seed() override;
  void set_state(const c10::TensorImpl& new_state) override;
  // Waits for the launches that draw.
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override;

  static c10::DeviceType device_type() {
    return c10::DeviceType::PrivateUse1;
  }

  // The CPU generator for the next launch on `stream`, which the stream waits
  // for until earlier launches on other streams have drawn. The caller launches
  // before it releases `lock`.
  struct Draw {
    std::unique_lock<std::mutex> lock;
    at::Generator generator;
  };
  Draw take(orStream_t stream);

 private:
  OpenRegGeneratorImpl* clone_impl() const override;
  void wait_for_draws() const;

  mutable std::mutex order_mutex_;
  at::Generator cpu_;
  // The stream of the last draw, and an event behind it when another follows.
  orStream_t last_stream_ = nullptr;
  orEvent_t event_ = nullptr;
};

// `device` -1 is the current device. Lives for ever.
OPENREG_API const at::Generator& default_generator(c10::DeviceIndex device = -1);
OPENREG_API at::Generator create_generator(c10::DeviceIndex device = -1);

} // namespace at::openreg

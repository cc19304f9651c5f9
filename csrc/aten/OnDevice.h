#pragma once

// ATen's device-generic functions, for registration: called with the device of
// their device argument or else of their tensors as the current one, as code generated for ATen's
// own devices does.

#include <ATen/core/Tensor.h>
#include <c10/core/DeviceGuard.h>

#include <optional>
#include <type_traits>

namespace at::openreg {

template <auto function>
struct OnDevice;

template <class R, class... A, R (*function)(A...)>
struct OnDevice<function> {
  static R call(A... args) {
    std::optional<c10::Device> device;
    (find_argument(device, args), ...);
    (find_tensor(device, args), ...);
    const c10::OptionalDeviceGuard guard(device);
    return function(std::forward<A>(args)...);
  }

 private:
  template <class T>
  static void find_argument(std::optional<c10::Device>& device, const T& argument) {
    if constexpr (std::is_same_v<T, std::optional<at::Device>>) {
      if (!device.has_value() && argument.has_value() && argument->is_privateuseone()) {
        device = argument;
      }
    }
  }
  template <class T>
  static void find_tensor(std::optional<c10::Device>& device, const T& argument) {
    if constexpr (std::is_same_v<T, at::Tensor>) {
      if (!device.has_value() && argument.defined() && argument.is_privateuseone()) {
        device = argument.device();
      }
    }
  }
};

} // namespace at::openreg

#define OPENREG_ON_DEVICE(function) TORCH_FN(::at::openreg::OnDevice<&function>::call)

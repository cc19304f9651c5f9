#pragma once

// Structured operators: ATen's meta function computes the output's sizes on the
// calling thread and asks for the output through these classes; then the
// generated wrapper launches the CPU kernel's out= form on it.

#include <ATen/TensorIterator.h>
#include <ATen/TensorMeta.h>

#include <array>

#include "aten/Launch.h"

namespace at::openreg {

// What the classes below do with an output, once for all operators.
at::Tensor
allocate_output(at::IntArrayRef sizes, at::IntArrayRef strides, const at::TensorOptions& options);
void check_inplace_output(const at::Tensor& output,
                          at::IntArrayRef sizes,
                          const at::TensorOptions& options);
void resize_out_argument(at::Tensor& output,
                         at::IntArrayRef sizes,
                         at::IntArrayRef strides,
                         const at::TensorOptions& options);

// Sets the iterator's own operand where the operator is a TensorIterator.
template <class Meta>
void set_iterator_output(Meta& meta,
                         int64_t index,
                         at::IntArrayRef sizes,
                         at::IntArrayRef strides,
                         at::TensorOptions options) {
  if constexpr (std::is_base_of_v<at::TensorIteratorBase, Meta>) {
    meta.at::TensorIteratorBase::set_output_raw_strided(index, sizes, strides, options);
  }
}

// An operator that returns new tensors.
template <class Meta, size_t N>
class Functional final : public Meta {
 public:
  void set_output_strided(int64_t index,
                          at::IntArrayRef sizes,
                          at::IntArrayRef strides,
                          at::TensorOptions options) override {
    set_output_raw_strided(index, sizes, strides, options);
  }

  void set_output_raw_strided(int64_t index,
                              at::IntArrayRef sizes,
                              at::IntArrayRef strides,
                              at::TensorOptions options) override {
    outputs[index] = allocate_output(sizes, strides, options);
    set_iterator_output<Meta>(*this, index, sizes, strides, options);
  }

  const at::Tensor& maybe_get_output(int64_t index) override {
    return outputs[index];
  }

  std::array<at::Tensor, N> outputs;
};

// An operator that writes into its first argument.
template <class Meta>
class Inplace final : public Meta {
 public:
  explicit Inplace(at::Tensor& self) : output(self) {}

  void set_output_strided(int64_t index,
                          at::IntArrayRef sizes,
                          at::IntArrayRef strides,
                          at::TensorOptions options) override {
    set_output_raw_strided(index, sizes, strides, options);
  }

  void set_output_raw_strided(int64_t index,
                              at::IntArrayRef sizes,
                              at::IntArrayRef strides,
                              at::TensorOptions options) override {
    check_inplace_output(output, sizes, options);
    set_iterator_output<Meta>(*this, index, sizes, strides, options);
  }

  const at::Tensor& maybe_get_output(int64_t) override {
    return output;
  }

  at::Tensor& output;
};

// An operator with out= arguments, which are resized as needed.
template <class Meta, size_t N>
class Out final : public Meta {
 public:
  template <class... T>
  explicit Out(T&... tensors) : outputs{std::ref(tensors)...} {}

  void set_output_strided(int64_t index,
                          at::IntArrayRef sizes,
                          at::IntArrayRef strides,
                          at::TensorOptions options) override {
    set_output_raw_strided(index, sizes, strides, options);
  }

  void set_output_raw_strided(int64_t index,
                              at::IntArrayRef sizes,
                              at::IntArrayRef strides,
                              at::TensorOptions options) override {
    resize_out_argument(outputs[index], sizes, strides, options);
    set_iterator_output<Meta>(*this, index, sizes, strides, options);
  }

  const at::Tensor& maybe_get_output(int64_t index) override {
    return outputs[index];
  }

  std::array<std::reference_wrapper<at::Tensor>, N> outputs;
};

// Raises unless all defined tensors are on one device.
class SameDevice {
 public:
  explicit SameDevice(const char* op) : op_(op) {}

  void check(const at::Tensor& tensor, const char* argument);
  void check(const std::optional<at::Tensor>& tensor, const char* argument) {
    if (tensor.has_value()) {
      check(*tensor, argument);
    }
  }
  void check(const at::ITensorListRef& tensors, const char* argument) {
    for (const at::Tensor& tensor : tensors) {
      check(tensor, argument);
    }
  }
  void check(const at::IOptTensorListRef& tensors, const char* argument) {
    for (const at::OptionalTensorRef& tensor : tensors) {
      if (tensor.has_value()) {
        check(*tensor, argument);
      }
    }
  }

 private:
  const char* op_;
  std::optional<at::Device> device_;
};

// The device of the first defined openreg tensor; what an operator launches on.
template <class... T>
c10::DeviceIndex device_of_first(const T&... args) {
  c10::DeviceIndex index = -1;
  const auto visit_tensor = [&](const at::Tensor& tensor) {
    if (index < 0 && tensor.defined() && tensor.is_privateuseone()) {
      index = tensor.get_device();
    }
  };
  const auto visit = [&](const auto& arg) {
    using A = std::decay_t<decltype(arg)>;
    if constexpr (std::is_base_of_v<at::TensorBase, A>) {
      visit_tensor(arg);
    } else if constexpr (std::is_same_v<A, std::optional<at::Tensor>>) {
      if (arg.has_value()) {
        visit_tensor(*arg);
      }
    } else {
      for (const auto& element : arg) {
        if constexpr (std::is_same_v<std::decay_t<decltype(element)>, at::Tensor>) {
          visit_tensor(element);
        } else {
          const std::optional<at::Tensor> optional = element;
          if (optional.has_value()) {
            visit_tensor(*optional);
          }
        }
      }
    }
  };
  (visit(args), ...);
  return index;
}

} // namespace at::openreg

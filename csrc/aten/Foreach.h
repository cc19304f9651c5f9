#pragma once

// The _foreach_ operators, which optimizers and gradient clipping call with
// lists of tensors: one launch for whole lists where every tensor's result is
// known to be like it, else ATen's loop over the lists on the calling thread.
// The kernel is that same loop, run by the worker.

#include "aten/Launch.h"
#include "aten/Shapes.h"

namespace at::openreg {

// Whether one launch can take all lists: as many tensors and scalars in each,
// on one device, of one floating point dtype and, position by position, of the
// same geometry. What does not fit is computed, or refused, operator by operator.
class ForeachLists {
 public:
  template <class... T>
  explicit ForeachLists(const T&... args) {
    (find_first(args), ...);
    can_launch_ = !first_.empty() && first_[0].is_privateuseone() && (fits(args) && ...);
  }

  bool can_launch() const {
    return can_launch_;
  }
  at::TensorList first() const {
    return first_;
  }
  c10::DeviceIndex device() const {
    return first_[0].get_device();
  }

 private:
  void find_first(at::TensorList list) {
    first_ = first_.empty() ? list : first_;
  }
  template <class T>
  void find_first(const T&) {}

  OPENREG_API bool fits(at::TensorList list) const;
  bool fits(at::ArrayRef<at::Scalar> scalars) const {
    return scalars.size() == first_.size() &&
           std::none_of(scalars.begin(), scalars.end(),
                        [](const auto& s) { return s.isComplex(); });
  }
  bool fits(const at::Scalar& scalar) const {
    return !scalar.isComplex();
  }
  bool fits(const at::Tensor& tensor) const {
    return tensor.dim() == 0 && tensor.scalar_type() == first_[0].scalar_type() &&
           (tensor.is_cpu() || tensor.device() == first_[0].device());
  }
  template <class T>
  bool fits(const T&) const {
    return true;
  }

  at::TensorList first_;
  bool can_launch_ = false;
};

template <class... P, class... A>
void foreach_inplace(const char* name, void (*kernel)(P...), const A&... args) {
  const ForeachLists lists(args...);
  if (!lists.can_launch()) {
    kernel(args...);
    return;
  }
  for (const at::Tensor& tensor : lists.first()) {
    // A copy-on-write tensor gets its copy before the kernel writes to it.
    tensor.storage().mutable_data();
  }
  launch(lists.device(), name, kernel, args...);
}

template <class T>
T element(T list, size_t i) {
  if constexpr (std::is_same_v<T, at::TensorList> || std::is_same_v<T, at::ArrayRef<at::Scalar>>) {
    return list.slice(i, 1);
  } else {
    return list;
  }
}

// Runs `kernel` on a list of one tensor, whose result goes to `output`.
OPENREG_API void write_element(const at::Tensor& output,
                               c10::function_ref<std::vector<at::Tensor>()> kernel);

template <class... P>
void run_elements(std::vector<at::Tensor> (*kernel)(P...), at::TensorList outputs, P... args) {
  for (size_t i = 0; i < outputs.size(); ++i) {
    write_element(outputs[i], [&] { return kernel(element<P>(args, i)...); });
  }
}

template <class... P, class... A>
std::vector<at::Tensor> launch_elements(const char* name,
                                        c10::DeviceIndex device,
                                        std::vector<at::Tensor> outputs,
                                        std::vector<at::Tensor> (*kernel)(P...),
                                        const A&... args) {
  launch(device, name, &run_elements<P...>, kernel, at::TensorList(outputs), args...);
  return outputs;
}

// Results like the tensors of the first list.
template <class... P, class... A>
std::vector<at::Tensor>
foreach_functional(const char* name, std::vector<at::Tensor> (*kernel)(P...), const A&... args) {
  const ForeachLists lists(args...);
  if (!lists.can_launch()) {
    return kernel(args...);
  }
  std::vector<at::Tensor> outputs;
  outputs.reserve(lists.first().size());
  for (const at::Tensor& tensor : lists.first()) {
    outputs.push_back(allocate(like(tensor), lists.device()));
  }
  return launch_elements(name, lists.device(), std::move(outputs), kernel, args...);
}

} // namespace at::openreg

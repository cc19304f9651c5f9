#pragma once

// How an operator of torch.ops.openreg is made: one function that checks its
// arguments, allocates its results and runs a kernel on CPU tensors, for CPU
// tensors at once and for the device's through a launch; and one that gives the
// results' shapes alone, which may be symbolic.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <string>

#include "aten/Factories.h"
#include "aten/Launch.h"
#include "kernels/Rows.h"

namespace at::openreg {

// A new dense tensor where `tensor` is.
inline at::Tensor new_empty(const at::Tensor& tensor, at::IntArrayRef sizes, at::ScalarType dtype) {
  return tensor.is_cpu() ? at::empty(sizes, tensor.options().dtype(dtype))
                         : empty_on(tensor.device(), sizes, dtype);
}
inline at::Tensor new_empty(const at::Tensor& tensor, at::IntArrayRef sizes) {
  return new_empty(tensor, sizes, tensor.scalar_type());
}

// Calls kernel(args...) with CPU tensors, or queues it where `tensor` is. `name`
// lives for ever.
template <class... P, class... A>
void run(const at::Tensor& tensor, const char* name, void (*kernel)(P...), A&&... args) {
  if (tensor.is_cpu()) {
    kernel(std::forward<A>(args)...);
  } else {
    launch(tensor.get_device(), name, kernel, std::forward<A>(args)...);
  }
}

// Raises unless all defined tensors are on the device of the first.
class SameDeviceAs {
 public:
  SameDeviceAs(const char* op, const at::Tensor& first) : op_(op), device_(first.device()) {}

  const SameDeviceAs& check(const char* name, const at::Tensor& tensor) const {
    TORCH_CHECK(!tensor.defined() || tensor.device() == device_, op_, ": expected ", name, " on ",
                device_, ", got it on ", tensor.device());
    return *this;
  }
  const SameDeviceAs& check(const char* name, const std::optional<at::Tensor>& tensor) const {
    return tensor.has_value() ? check(name, *tensor) : *this;
  }

 private:
  const char* op_;
  at::Device device_;
};

inline void check_dtype(const char* op,
                        const char* name,
                        const at::Tensor& tensor,
                        std::initializer_list<at::ScalarType> dtypes) {
  for (const at::ScalarType dtype : dtypes) {
    if (tensor.scalar_type() == dtype) {
      return;
    }
  }
  std::string expected;
  for (const at::ScalarType dtype : dtypes) {
    expected += (expected.empty() ? "" : " or ") + std::string(c10::toString(dtype));
  }
  TORCH_CHECK_TYPE(false, op, ": expected ", name, " of dtype ", expected, ", got ",
                   tensor.scalar_type());
}

inline void check_floating(const char* op, const char* name, const at::Tensor& tensor) {
  check_dtype(op, name, tensor, {at::kFloat, at::kBFloat16, at::kHalf});
}

inline void
check_shape(const char* op, const char* name, const at::Tensor& tensor, at::IntArrayRef sizes) {
  TORCH_CHECK(tensor.sizes() == sizes, op, ": expected ", name, " of shape ", sizes, ", got ",
              tensor.sizes());
}

inline void check_dim(const char* op, const char* name, const at::Tensor& tensor, int64_t dim) {
  TORCH_CHECK(tensor.dim() == dim, op, ": expected ", name, " with ", dim, " dimensions, got ",
              tensor.sizes());
}

inline void check_dense_last(const char* op, const char* name, const at::Tensor& tensor) {
  TORCH_CHECK(tensor.size(-1) <= 1 || tensor.stride(-1) == 1, op, ": expected ", name,
              " dense in its last dimension, got strides ", tensor.strides());
}

inline void check_rows(const char* op, const char* name, const at::Tensor& tensor) {
  TORCH_CHECK(Rows::fit(tensor), op, ": expected ", name,
              " as dense rows with at most two other strides, got shape ", tensor.sizes(),
              " and strides ", tensor.strides());
}

// The tensor, or a copy that Rows can take.
inline at::Tensor as_rows(const at::Tensor& tensor) {
  return Rows::fit(tensor) ? tensor : tensor.contiguous();
}

// Registers `op` for CPU and device, and `meta` for shapes alone.
template <class Op, class Meta>
void define(torch::Library& library, const std::string& schema, Op* op, Meta* meta) {
  library.def(schema.c_str(), {at::Tag::pt2_compliant_tag});
  const std::string name = schema.substr(0, schema.find('('));
  library.impl(name.c_str(), torch::dispatch(c10::DispatchKey::CPU, op));
  library.impl(name.c_str(), torch::dispatch(c10::DispatchKey::PrivateUse1, op));
  library.impl(name.c_str(), torch::dispatch(c10::DispatchKey::Meta, meta));
}

} // namespace at::openreg

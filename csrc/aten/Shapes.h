#pragma once

// Output sizes of operators that have no structured meta function; what
// operators.yaml is written in.

#include <ATen/ExpandUtils.h>
#include <ATen/core/Reduction.h>
#include <ATen/core/Tensor.h>
#include <c10/util/DimVector.h>

#include <optional>

#include "aten/Factories.h"

namespace at::openreg {

// An output to be: sizes, strides (empty: contiguous) and dtype.
struct Spec {
  c10::DimVector sizes;
  c10::DimVector strides;
  at::ScalarType dtype;
};

OPENREG_API at::Tensor allocate(const Spec& spec, c10::DeviceIndex device);

// Resizes an out= argument to the spec, as ATen does; its dtype is the kernel's
// to check.
OPENREG_API void resize_for(const at::Tensor& out, const Spec& spec);

// Sizes, strides (if dense) and dtype of `tensor`, as empty_like would.
OPENREG_API Spec like(const at::Tensor& tensor, std::optional<at::ScalarType> dtype = std::nullopt);
OPENREG_API Spec contiguous(at::IntArrayRef sizes, at::ScalarType dtype);
OPENREG_API Spec contiguous_like(const at::Tensor& tensor,
                                 std::optional<at::ScalarType> dtype = std::nullopt);

// The result of an element-wise operator, by TensorIterator's rules; `dtype`
// if given is the result's.
OPENREG_API Spec elementwise(std::initializer_list<at::Tensor> inputs,
                             std::optional<at::ScalarType> dtype = std::nullopt);

// Sizes of `tensor` with dimension `dim` of size `size`.
OPENREG_API Spec with_size(const at::Tensor& tensor, int64_t dim, int64_t size);

// A reduction over dims (none: all of them).
OPENREG_API Spec reduced(const at::Tensor& tensor,
                         at::OptionalIntArrayRef dims,
                         bool keepdim,
                         at::ScalarType dtype);

// A loss: a scalar, or the sizes of an element-wise result for no reduction.
OPENREG_API Spec loss(std::initializer_list<at::Tensor> inputs, int64_t reduction);

// float for integers (the default dtype), else the dtype itself.
OPENREG_API at::ScalarType to_floating(at::ScalarType dtype);
// int64 for integers and bool, else the dtype itself.
OPENREG_API at::ScalarType to_summed(at::ScalarType dtype);

// The real dtype of a complex one, else the dtype itself.
OPENREG_API at::ScalarType to_real(at::ScalarType dtype);

// where(): the common dtype and broadcast size, the condition's taking part in
// the size only.
OPENREG_API Spec elementwise_where(const at::Tensor& condition,
                                   const at::Tensor& self,
                                   const at::Tensor& other);

// A zero-dimensional result of the tensor's dtype.
OPENREG_API Spec scalar(const at::Tensor& tensor);

// No output (an undefined tensor) unless `wanted`.
OPENREG_API std::optional<Spec> optional_output(bool wanted, Spec spec);
OPENREG_API at::Tensor allocate(const std::optional<Spec>& spec, c10::DeviceIndex device);

// The statistics that layer_norm saves: leading sizes, ones for the rest.
OPENREG_API Spec layer_norm_statistics(const at::Tensor& input,
                                       at::IntArrayRef normalized_shape,
                                       const std::optional<at::Tensor>& weight);

OPENREG_API Spec log_sigmoid_buffer(const at::Tensor& self);
OPENREG_API Spec multinomial_samples(const at::Tensor& self, int64_t num_samples);

} // namespace at::openreg

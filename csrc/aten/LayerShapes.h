#pragma once

// Sizes and well-formedness of neural network layers and other operators with
// rules of their own; with Shapes.h what operators.yaml is written in. A
// condition that does not hold sends the call to the synchronous fallback, which
// computes it, or refuses it with the CPU's message.

#include "aten/Shapes.h"

namespace at::openreg {

// --- what conditions say

// All defined tensors are on the device and of one dtype.
OPENREG_API bool one_dtype(std::initializer_list<std::optional<at::Tensor>> tensors);
// ... which is a real floating point one.
OPENREG_API bool one_floating(std::initializer_list<std::optional<at::Tensor>> tensors);
OPENREG_API bool has_dim(const at::Tensor& tensor, int64_t dim);
// `tensor` broadcasts to `sizes`.
OPENREG_API bool expands_to(const at::Tensor& tensor, at::IntArrayRef sizes);
OPENREG_API bool broadcast(const at::Tensor& a, const at::Tensor& b);
OPENREG_API bool is_index(const at::Tensor& tensor);
// A weight or bias is not given, or has `size` elements.
OPENREG_API bool has_size(const std::optional<at::Tensor>& tensor, int64_t size);
OPENREG_API bool is_given(const std::optional<at::Tensor>& tensor);
// The scalar has a value in `dtype`.
OPENREG_API bool is_representable(const at::Scalar& value, at::ScalarType dtype);
// The same of a tensor of one element, as far as its data need not be looked at.
OPENREG_API bool fills(const at::Tensor& value, at::ScalarType dtype);
// Ranges of random numbers that `dtype` has exactly.
OPENREG_API bool uniform_fits(at::ScalarType dtype, double from, double to);
OPENREG_API bool random_fits(at::ScalarType dtype, int64_t from, std::optional<int64_t> to);
// More elements are reduced than `correction`, so that the CPU does not warn.
OPENREG_API bool has_degrees_of_freedom(const at::Tensor& self,
                                        at::OptionalIntArrayRef dims,
                                        const std::optional<at::Scalar>& correction);

// --- normalisation

// As empty_like(tensor, tensor.suggest_memory_format()).
OPENREG_API Spec suggested_like(const at::Tensor& tensor);
// float if the input is of lower precision and a parameter is float, else the input's.
OPENREG_API at::ScalarType
statistics_dtype(const at::Tensor& input,
                 std::initializer_list<std::optional<at::Tensor>> parameters);
OPENREG_API bool batch_norm_fits(const at::Tensor& input,
                                 const std::optional<at::Tensor>& weight,
                                 const std::optional<at::Tensor>& bias,
                                 const std::optional<at::Tensor>& mean,
                                 const std::optional<at::Tensor>& var);
// native_batch_norm writes statistics that its schema does not mark as written: makes
// their copies, if they are copied on write.
OPENREG_API void write_statistics(bool training,
                                  const std::optional<at::Tensor>& mean,
                                  const std::optional<at::Tensor>& var);
OPENREG_API bool group_norm_fits(const at::Tensor& input,
                                 const std::optional<at::Tensor>& weight,
                                 const std::optional<at::Tensor>& bias,
                                 int64_t n,
                                 int64_t c,
                                 int64_t hxw,
                                 int64_t group);

// --- images

// The last dimensions of `tensor` replaced by `sizes`, in its memory format.
OPENREG_API Spec resized_image(const at::Tensor& tensor, at::IntArrayRef sizes);
OPENREG_API Spec padded_image(const at::Tensor& tensor, at::IntArrayRef padding);
OPENREG_API bool reflection_fits(const at::Tensor& tensor, at::IntArrayRef padding);
OPENREG_API bool image_fits(const at::Tensor& tensor, at::IntArrayRef output_size);
OPENREG_API bool grid_fits(const at::Tensor& input, const at::Tensor& grid, int64_t dims);
OPENREG_API Spec grid_sampled(const at::Tensor& input, const at::Tensor& grid);

// --- the rest

OPENREG_API Spec reduced_dim(const at::Tensor& tensor,
                             int64_t dim,
                             bool keepdim,
                             at::ScalarType dtype);
// Contiguous, with the last dimension of size `size`.
OPENREG_API Spec with_last(const at::Tensor& tensor, int64_t size, at::ScalarType dtype);
OPENREG_API bool
addbmm_fits(const at::Tensor& self, const at::Tensor& batch1, const at::Tensor& batch2);
OPENREG_API bool multinomial_fits(const at::Tensor& self, int64_t num_samples, bool replacement);
// What an out= factory makes of its output: one of so many elements keeps its sizes.
OPENREG_API Spec filled(const at::Tensor& out, int64_t numel);
OPENREG_API int64_t arange_size(at::ScalarType dtype,
                                const at::Scalar& start,
                                const at::Scalar& end,
                                const at::Scalar& step);
OPENREG_API bool search_fits(const at::Tensor& boundaries,
                             const at::Tensor& self,
                             const std::optional<std::string_view>& side,
                             const std::optional<at::Tensor>& sorter);
OPENREG_API bool nll_loss2d_fits(const at::Tensor& self,
                                 const at::Tensor& target,
                                 const std::optional<at::Tensor>& weight);
OPENREG_API Spec nll_loss2d_output(const at::Tensor& self, int64_t reduction);
// A transform along the last dimension of a contiguous tensor, whose result is contiguous.
OPENREG_API bool is_row_transform(const at::Tensor& self, at::IntArrayRef dim);

} // namespace at::openreg

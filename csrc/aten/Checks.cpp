#include "aten/Checks.h"

#include <ATen/ExpandUtils.h>
#include <ATen/WrapDimUtils.h>
#include <ATen/WrapDimUtilsMulti.h>
#include <ATen/native/layer_norm.h>

namespace at::openreg {

void check_scalar_tensor(const at::Tensor& value) {
  TORCH_CHECK(value.dim() == 0, "fill_ only supports 0-dimension value tensor but got tensor with ",
              value.dim(), " dimensions.");
}

void check_masked_fill(const at::Tensor& self, const at::Tensor& mask) {
  TORCH_CHECK(self.device() == mask.device() || mask.dim() == 0,
              "expected self and mask to be on the same device, but got mask on ", mask.device(),
              " and self on ", self.device());
  TORCH_CHECK(mask.scalar_type() == at::kBool,
              "masked_fill_ only supports boolean masks, but got mask with dtype ",
              mask.scalar_type());
  check_expands_to(mask, self, "masked_fill_");
}

void check_index_fill(const at::Tensor& self, int64_t dim, const at::Tensor& index) {
  TORCH_CHECK_INDEX(index.scalar_type() == at::kLong,
                    "index_fill_(): Expected dtype int64 for index.");
  TORCH_CHECK(index.dim() <= 1, "Index has to be a vector/scalar");
  at::maybe_wrap_dim(dim, self.dim());
}

void check_index_select(const at::Tensor& self, int64_t dim, const at::Tensor& index) {
  dim = at::maybe_wrap_dim(dim, self.dim());
  TORCH_CHECK_INDEX(index.dim() <= 1, "index_select(): Index is supposed to be a vector");
  TORCH_CHECK(!(self.dim() == 0 && index.numel() != 1),
              "index_select(): Index to scalar can have only 1 value, got ", index.numel(),
              " value(s)");
  TORCH_CHECK(
      index.scalar_type() == at::kLong || index.scalar_type() == at::kInt,
      "index_select(): Expected dtype int32 or int64 for index but got: ", index.scalar_type());
}

void check_take(const at::Tensor& self, const at::Tensor& index) {
  TORCH_CHECK(index.scalar_type() == at::kLong,
              "take(): Expected a long tensor for index, but got ", index.scalar_type());
  TORCH_CHECK_INDEX(!(self.numel() == 0 && index.numel() != 0),
                    "take(): tried to take from an empty tensor");
}

void check_dims(const at::Tensor& self, at::IntArrayRef dims) {
  at::dim_list_to_bitset(dims, self.dim());
}

void check_roll(const at::Tensor& self, at::IntArrayRef shifts, at::IntArrayRef dims) {
  TORCH_CHECK(!shifts.empty(), "`shifts` required");
  TORCH_CHECK(!(dims.empty() && shifts.size() == 1) ? shifts.size() == dims.size() : true,
              "shifts and dimensions must align. shifts: ", shifts.size(), ", dims:", dims.size());
  for (const auto dim : dims) {
    at::maybe_wrap_dim(dim, self.dim(), /*wrap_scalar=*/false);
  }
}

void check_embedding_backward(const at::Tensor& indices) {
  TORCH_CHECK(
      indices.scalar_type() == at::kLong || indices.scalar_type() == at::kInt,
      "Expected tensor for argument #2 'indices' to have one of the following scalar types: "
      "Long, Int; but got ",
      indices.toString(),
      " instead (while checking arguments for "
      "embedding_backward)");
}

void check_expands_to(const at::Tensor& tensor, const at::Tensor& self, const char* op) {
  at::expand_inplace(self, tensor, op);
}

void check_hardtanh(const at::Tensor& self, const at::Scalar& min, const at::Scalar& max) {
  TORCH_CHECK(self.scalar_type() != at::kBool, "Bool inputs not supported for hardtanh");
  if (at::isIntegralType(self.scalar_type(), /*includeBool=*/false)) {
    TORCH_CHECK(self.scalar_type() != at::kByte || (min.toLong() >= 0 && max.toLong() >= 0),
                "cannot do hardtanh on an unsigned type with negative limits");
  }
}

void check_floating(const at::Tensor& self, const char* op) {
  const bool is_single = std::string_view(op) == "std" || std::string_view(op) == "var";
  TORCH_CHECK(at::isFloatingType(self.scalar_type()) || at::isComplexType(self.scalar_type()),
              is_single ? "std and var" : op, " only support floating point and complex dtypes");
}

void check_nansum(const at::Tensor& self) {
  TORCH_CHECK(!at::isComplexType(self.scalar_type()),
              "nansum on CPU does not support complex inputs");
}

void check_not_empty(const at::Tensor& self, const char* op) {
  TORCH_CHECK(self.numel() > 0, op,
              "(): Expected reduction dim to be specified for input.numel() == 0. "
              "Specify the reduction dim with the 'dim' argument.");
}

void check_dot(const at::Tensor& self, const at::Tensor& other) {
  TORCH_CHECK(self.dim() == 1 && other.dim() == 1, "1D tensors expected, but got ", self.dim(),
              "D and ", other.dim(), "D tensors");
  TORCH_CHECK(self.scalar_type() == other.scalar_type(),
              "dot : expected both vectors to have same dtype, but found ", self.scalar_type(),
              " and ", other.scalar_type());
  TORCH_CHECK(self.numel() == other.numel(), "inconsistent tensor size, expected tensor [",
              self.numel(), "] and src [", other.numel(),
              "] to have the same number of elements, but got ", self.numel(), " and ",
              other.numel(), " elements respectively");
}

void check_matrix(const at::Tensor& self, const char* op) {
  TORCH_CHECK(self.dim() == 2, op, ": expected a matrix, but got tensor with dim ", self.dim());
}

void check_same_size(const at::Tensor& self, const at::Tensor& target, const char* op) {
  TORCH_CHECK(self.sizes() == target.sizes(), op,
              ": expected input and target of the same size, got ", self.sizes(), " and ",
              target.sizes());
}

void check_layer_norm(const at::Tensor& input,
                      at::IntArrayRef normalized_shape,
                      const std::optional<at::Tensor>& weight,
                      const std::optional<at::Tensor>& bias) {
  at::native::_check_layer_norm_inputs(input, normalized_shape, weight.value_or(at::Tensor()),
                                       bias.value_or(at::Tensor()));
}

void check_standard_deviation(double std) {
  TORCH_CHECK(std >= 0.0, "normal expects std >= 0.0, but found std ", std);
}

void check_eye(int64_t n, int64_t m) {
  TORCH_CHECK(n >= 0, "n must be greater or equal to 0, got ", n);
  TORCH_CHECK(m >= 0, "m must be greater or equal to 0, got ", m);
}

void check_steps(int64_t steps) {
  TORCH_CHECK(steps >= 0, "number of steps must be non-negative");
}

} // namespace at::openreg

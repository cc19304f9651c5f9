#include "kernels/MatrixProduct.h"

#include <ATen/ops/addmm_cpu_dispatch.h>
#include <ATen/ops/mm_cpu_dispatch.h>

#include "kernels/Linear.h"

// Note [Products of few rows]
// A product of a few rows with a large matrix takes the time of reading the
// matrix once; BLAS, made for reuse, does not come near that. The kernel here adds
// up in another order than BLAS, so the last bits differ from the CPU's. Small
// matrices go to BLAS and keep its bits.

namespace at::openreg {
namespace {

constexpr int64_t kLargeMatrix = 1 << 14; // elements

// A matrix of dense rows: of the tensor, or of its transpose.
struct DenseRows {
  const void* data;
  int64_t stride;
  int64_t count;

  static std::optional<DenseRows> of(const at::Tensor& matrix, int64_t row_dim) {
    const int64_t stride = matrix.stride(row_dim);
    const int64_t count = matrix.size(row_dim);
    const int64_t inner = matrix.size(1 - row_dim);
    if (matrix.stride(1 - row_dim) != 1 || (stride < inner && count > 1)) {
      return std::nullopt;
    }
    return DenseRows{matrix.const_data_ptr(), stride, count};
  }
};

// out = mat1 * mat2 + bias, if that is a product of few rows. mat1's rows may be
// the few, or mat2's columns.
bool multiply_few_rows(const at::Tensor& mat1,
                       const at::Tensor& mat2,
                       const at::Tensor* bias,
                       at::Tensor& out) {
  const at::ScalarType dtype = mat1.scalar_type();
  const int64_t inner = mat1.size(1);
  const auto few_of = [&](int64_t few, int64_t many) {
    return few >= 1 && few <= kFewRows && many * inner >= kLargeMatrix;
  };
  const bool few_rows = few_of(mat1.size(0), mat2.size(1));
  const bool few_columns = bias == nullptr && few_of(mat2.size(1), mat1.size(0));
  if ((!few_rows && !few_columns) ||
      (dtype != at::kFloat && dtype != at::kBFloat16 && dtype != at::kHalf)) {
    return false;
  }
  auto x = DenseRows::of(mat1, 0);
  auto weight = DenseRows::of(mat2, 1);
  if (!x || !weight) {
    return false;
  }
  int64_t x_dim = 0;
  if (!few_rows) {
    std::swap(x, weight);
    x_dim = 1;
  }
  linear_kernel({
      .x = x->data,
      .x_stride = x->stride,
      .weight = weight->data,
      .weight_stride = weight->stride,
      .bias = bias != nullptr ? bias->const_data_ptr() : nullptr,
      .out = out.mutable_data_ptr(),
      .out_stride = out.stride(x_dim),
      .out_column_stride = out.stride(1 - x_dim),
      .rows = x->count,
      .columns = weight->count,
      .inner = inner,
      .dtype = dtype,
  });
  return true;
}

} // namespace

at::Tensor& matrix_product(const at::Tensor& self, const at::Tensor& mat2, at::Tensor& out) {
  return multiply_few_rows(self, mat2, nullptr, out) ? out : at::cpu::mm_outf(self, mat2, out);
}

at::Tensor& matrix_product_sum(const at::Tensor& self,
                               const at::Tensor& mat1,
                               const at::Tensor& mat2,
                               const at::Scalar& beta,
                               const at::Scalar& alpha,
                               at::Tensor& out) {
  const bool is_bias = self.dim() == 1 && self.size(0) == mat2.size(1) && self.stride(0) == 1 &&
                       beta.equal(1) && alpha.equal(1);
  return is_bias && multiply_few_rows(mat1, mat2, &self, out)
             ? out
             : at::cpu::addmm_outf(self, mat1, mat2, beta, alpha, out);
}

} // namespace at::openreg

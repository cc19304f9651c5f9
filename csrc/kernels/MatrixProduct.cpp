#include "kernels/MatrixProduct.h"

#include <ATen/Context.h>
#include <ATen/ops/addmm_cpu_dispatch.h>
#include <ATen/ops/mm_cpu_dispatch.h>

#include <algorithm>

#include "kernels/Gemm.h"
#include "kernels/Linear.h"

// Note [Products with kernels of our own]
// A product of a few rows with a large matrix takes the time of reading the
// matrix once; BLAS, made for reuse, does not come near that (linear_kernel).
// With many rows, float's BLAS uses half of some processors' speed, and Half has
// none (gemm_kernel). Both add up in another order than BLAS, so the last bits
// differ from the CPU's. Small matrices go to ATen and keep its bits.

namespace at::openreg {
namespace {

constexpr int64_t kLargeMatrix = 1 << 14;  // elements
constexpr int64_t kLargeProduct = 1 << 22; // multiplications
constexpr int64_t kGemmRows = 16;          // and columns, and inner: at least

// Whether the elements along `dim` follow each other, and no others lie among them.
bool is_dense(const at::Tensor& matrix, int64_t dim) {
  return matrix.stride(dim) == 1 &&
         (matrix.stride(1 - dim) >= matrix.size(dim) || matrix.size(1 - dim) <= 1);
}

// A matrix of dense rows: of the tensor, or of its transpose.
struct DenseRows {
  const void* data;
  int64_t stride;
  int64_t count;

  static std::optional<DenseRows> of(const at::Tensor& matrix, int64_t row_dim) {
    if (!is_dense(matrix, 1 - row_dim)) {
      return std::nullopt;
    }
    return DenseRows{matrix.const_data_ptr(), matrix.stride(row_dim), matrix.size(row_dim)};
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
    return few >= 1 && is_few_rows(few, inner) && many * inner >= kLargeMatrix;
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

// As torch.set_float32_matmul_precision asks for: of ATen's kernels, which have it.
bool is_float_reduced() {
  const auto precision =
      at::globalContext().float32Precision(at::Float32Backend::MKLDNN, at::Float32Op::MATMUL);
  return precision == at::Float32Precision::BF16 || precision == at::Float32Precision::TF32;
}

// out = mat1 * mat2 + bias, if that is a product of many rows.
bool multiply_many_rows(const at::Tensor& mat1,
                        const at::Tensor& mat2,
                        const at::Tensor* bias,
                        at::Tensor& out) {
  const at::ScalarType dtype = mat1.scalar_type();
  const int64_t rows = mat1.size(0);
  const int64_t columns = mat2.size(1);
  const int64_t inner = mat1.size(1);
  const bool has_kernel = dtype == at::kHalf || (dtype == at::kFloat && !is_float_reduced());
  if (!has_kernel || std::min({rows, columns, inner}) < kGemmRows ||
      rows * columns * inner < kLargeProduct) {
    return false;
  }
  if (!is_dense(out, 1)) {
    at::Tensor transposed = out.t();
    return bias == nullptr && is_dense(transposed, 1) &&
           multiply_many_rows(mat2.t(), mat1.t(), nullptr, transposed);
  }
  for (const at::Tensor& matrix : {mat1, mat2}) {
    if (!is_dense(matrix, 0) && !is_dense(matrix, 1)) {
      return false;
    }
  }
  gemm_kernel({
      .a = mat1.const_data_ptr(),
      .a_row_stride = mat1.stride(0),
      .a_inner_stride = mat1.stride(1),
      .b = mat2.const_data_ptr(),
      .b_inner_stride = mat2.stride(0),
      .b_column_stride = mat2.stride(1),
      .bias = bias != nullptr ? bias->const_data_ptr() : nullptr,
      .c = out.mutable_data_ptr(),
      .c_stride = out.stride(0),
      .rows = rows,
      .columns = columns,
      .inner = inner,
      .dtype = dtype,
  });
  return true;
}

bool multiply(const at::Tensor& mat1,
              const at::Tensor& mat2,
              const at::Tensor* bias,
              at::Tensor& out) {
  return multiply_few_rows(mat1, mat2, bias, out) || multiply_many_rows(mat1, mat2, bias, out);
}

} // namespace

at::Tensor& matrix_product(const at::Tensor& self, const at::Tensor& mat2, at::Tensor& out) {
  return multiply(self, mat2, nullptr, out) ? out : at::cpu::mm_outf(self, mat2, out);
}

at::Tensor& matrix_product_sum(const at::Tensor& self,
                               const at::Tensor& mat1,
                               const at::Tensor& mat2,
                               const at::Scalar& beta,
                               const at::Scalar& alpha,
                               at::Tensor& out) {
  const bool is_bias = self.dim() == 1 && self.size(0) == mat2.size(1) && self.stride(0) == 1 &&
                       beta.equal(1) && alpha.equal(1);
  return is_bias && multiply(mat1, mat2, &self, out)
             ? out
             : at::cpu::addmm_outf(self, mat1, mat2, beta, alpha, out);
}

} // namespace at::openreg

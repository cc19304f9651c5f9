#include "kernels/Rows.h"

#include <c10/util/Exception.h>
#include <c10/util/SmallVector.h>

namespace at::openreg {
namespace {

struct Dim {
  int64_t size;
  int64_t stride;
};

// All dimensions but the last, neighbours merged where one continues the other,
// the innermost first.
c10::SmallVector<Dim, 4> merged_dims(const at::Tensor& tensor) {
  c10::SmallVector<Dim, 4> dims;
  for (int64_t d = tensor.dim() - 2; d >= 0; --d) {
    const Dim dim{tensor.size(d), tensor.stride(d)};
    if (dim.size == 1) {
      continue;
    }
    if (!dims.empty() && dims.back().size * dims.back().stride == dim.stride) {
      dims.back().size *= dim.size;
    } else {
      dims.push_back(dim);
    }
  }
  return dims;
}

} // namespace

bool Rows::fit(const at::Tensor& tensor) {
  return tensor.dim() > 0 && (tensor.stride(-1) == 1 || tensor.size(-1) <= 1) &&
         (tensor.numel() == 0 || merged_dims(tensor).size() <= 2);
}

Rows::Rows(const at::Tensor& tensor) {
  data = tensor.data_ptr();
  width = tensor.size(-1);
  count = tensor.numel() == 0 ? 0 : tensor.numel() / width;
  if (count == 0) {
    return;
  }
  const auto dims = merged_dims(tensor);
  TORCH_INTERNAL_ASSERT(dims.size() <= 2);
  if (!dims.empty()) {
    inner = dims[0].size;
    inner_stride = dims[0].stride;
  }
  if (dims.size() == 2) {
    outer_stride = dims[1].stride;
  }
}

} // namespace at::openreg

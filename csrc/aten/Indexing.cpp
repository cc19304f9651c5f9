// Writing through index tensors: x[i, j] = v and index_put_.

#include <ATen/ExpandUtils.h>
#include <ATen/ops/_index_put_impl_native.h>
#include <ATen/ops/_index_put_impl_ops.h>
#include <torch/library.h>

#include "aten/Boxed.h"
#include "aten/Launch.h"
#include "aten/LayerShapes.h"
#include "aten/Overlap.h"
#include "aten/Structured.h"

namespace at::openreg {
namespace {

using Indices = c10::List<std::optional<at::Tensor>>;

bool is_mask(const at::Tensor& index) {
  return index.scalar_type() == at::kBool || index.scalar_type() == at::kByte;
}

// Whether sizes and dtypes are right, as far as they can be known here: how many
// elements a mask selects is data. What is not well-formed is launched boxed,
// whose errors are the CPU's.
bool is_well_formed(const at::Tensor& self, const Indices& indices, const at::Tensor& value) {
  if (self.scalar_type() != value.scalar_type() || self.numel() == 0 || value.numel() == 0 ||
      !value.defined() || at::has_internal_overlap(self) == at::MemOverlap::Yes ||
      shares_memory(self, value)) {
    return false;
  }
  bool has_masks = false;
  int64_t dim = 0;
  int64_t first = -1;
  int64_t last = -1;
  c10::DimVector indexed;
  for (const std::optional<at::Tensor>& index : indices) {
    if (!is_given(index)) {
      ++dim;
      continue;
    }
    if (shares_memory(self, index) || (!index->is_privateuseone() && !index->is_cpu())) {
      return false;
    }
    first = first < 0 ? dim : first;
    last = dim;
    if (is_mask(*index)) {
      has_masks = true;
      for (int64_t d = 0; d < index->dim(); ++d, ++dim) {
        if (dim >= self.dim() || index->size(d) != self.size(dim)) {
          return false;
        }
      }
      continue;
    }
    if (!is_index(*index) || dim >= self.dim() || index->numel() == 0 ||
        !at::are_expandable(indexed, index->sizes())) {
      return false;
    }
    indexed = at::infer_size_dimvector(indexed, index->sizes());
    ++dim;
  }
  if (dim > self.dim() || first < 0) {
    return false;
  }
  if (has_masks) {
    return value.numel() == 1;
  }
  // The indexed dimensions stand where they were if they are adjacent, else first.
  int64_t count = 0;
  for (const std::optional<at::Tensor>& index : indices) {
    count += is_given(index) ? 1 : 0;
  }
  const bool adjacent = last - first + 1 == count;
  c10::DimVector result;
  if (!adjacent) {
    result.append(indexed.begin(), indexed.end());
  }
  for (int64_t d = 0; d < self.dim(); ++d) {
    const std::optional<at::Tensor> index = d < static_cast<int64_t>(indices.size())
                                                ? std::optional<at::Tensor>(indices.get(d))
                                                : std::nullopt;
    if (!is_given(index)) {
      result.push_back(self.size(d));
    } else if (adjacent && d == first) {
      result.append(indexed.begin(), indexed.end());
    }
  }
  return expands_to(value, result);
}

at::Tensor& index_put_impl_(at::Tensor& self,
                            const Indices& indices,
                            const at::Tensor& values,
                            bool accumulate,
                            bool unsafe) {
  if (!is_well_formed(self, indices, values)) {
    return call_boxed<at::_ops::_index_put_impl_>(self, indices, values, accumulate, unsafe);
  }
  SameDevice devices("wrapper_openreg__index_put_impl_");
  devices.check(self, "self");
  if (values.dim() > 0) {
    devices.check(values, "values");
  }
  for (const std::optional<at::Tensor>& index : indices) {
    if (is_given(index) && index->is_privateuseone()) {
      devices.check(*index, "indices");
    }
  }
  launch(self.get_device(), "aten::_index_put_impl_", &at::native::_index_put_impl_, self, indices,
         values, accumulate, unsafe);
  return self;
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("_index_put_impl_", TORCH_FN(index_put_impl_));
}

} // namespace
} // namespace at::openreg

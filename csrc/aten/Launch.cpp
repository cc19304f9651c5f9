#include "aten/Launch.h"

#include <ATen/ops/copy_native.h>

namespace at::openreg {

void write_outputs(const TensorArg* outputs,
                   size_t count,
                   c10::function_ref<void(std::vector<at::Tensor>&)> kernel) {
  constexpr size_t kMaxPlacements = 8;
  std::array<Placement, kMaxPlacements> placements;
  size_t placed = 0;
  std::vector<at::Tensor> targets;
  targets.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    targets.push_back(outputs[i].materialize());
    const at::Tensor& target = targets.back();
    if (target.defined() && target.numel() > 0 && placed < kMaxPlacements &&
        target.storage_offset() == 0) {
      placements[placed++] = {target.mutable_data_ptr(), target.storage().nbytes()};
    }
  }
  std::vector<at::Tensor> results;
  {
    OutputPlacements scope(placements.data(), placed);
    kernel(results);
  }
  TORCH_INTERNAL_ASSERT(results.size() >= count);
  // A result placed at another output's address would be overwritten below.
  for (size_t i = 0; i < count; ++i) {
    for (size_t j = 0; j < count; ++j) {
      if (i != j && results[i].defined() && targets[j].defined() && results[i].numel() > 0 &&
          results[i].storage().data() == targets[j].storage().data()) {
        results[i] = results[i].clone();
        break;
      }
    }
  }
  for (size_t i = 0; i < count; ++i) {
    const at::Tensor& result = results[i];
    const at::Tensor& target = targets[i];
    if (!target.defined() || !result.defined()) {
      continue;
    }
    TORCH_CHECK(result.sizes() == target.sizes() && result.dtype() == target.dtype(),
                "device kernel returned output ", i, " of size ", result.sizes(), " and type ",
                result.dtype(), ", expected ", target.sizes(), " and ", target.dtype());
    if (result.const_data_ptr() != target.const_data_ptr() ||
        result.strides() != target.strides() || result.is_conj() || result.is_neg()) {
      // Same memory in another layout: read all of it before writing.
      const bool same_memory = result.storage().data() == target.storage().data();
      at::native::copy_(const_cast<at::Tensor&>(target), same_memory ? result.clone() : result,
                        false);
    }
  }
}

} // namespace at::openreg

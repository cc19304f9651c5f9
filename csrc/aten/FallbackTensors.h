#pragma once

// The tensors of one call that a CPU kernel runs on the host thread: aliases of
// the device's tensors, in every layout, and the way back for what it made.

#include <ATen/core/QuantizerBase.h>
#include <ATen/core/Tensor.h>
#include <c10/core/Storage.h>

#include <unordered_map>
#include <utility>
#include <vector>

#include "runtime/Exception.h"

namespace at::openreg {

// Note [Adoption]
// While the kernel runs, its allocations come from the device (Note [Kernel
// memory]). So a result's storage can become a device storage by a change of
// owner. Three cases must not be adopted: a result that is an argument (returned
// as such), a result that shares an argument's storage (becomes a view of it),
// and memory the kernel got elsewhere (copied). Sparse, quantised and nested
// tensors are treated by their components.
class OPENREG_API FallbackTensors {
 public:
  explicit FallbackTensors(c10::DeviceIndex device) : device_(device) {}

  // A CPU tensor of the same layout over the device tensor's memory; the same
  // one for the same tensor.
  at::Tensor alias_of(const at::Tensor& tensor);

  // Once the kernel has run: arguments whose storage, geometry or components it
  // changed (out= that grew, in-place on a sparse tensor).
  void update_arguments();

  // The device tensor for a CPU tensor that the kernel returned.
  at::Tensor to_device(const at::Tensor& tensor);

 private:
  struct Argument {
    at::Tensor tensor;
    at::Tensor alias;
  };

  at::Tensor new_alias(const at::Tensor& tensor);
  const c10::Storage& aliased_storage(const at::Tensor& tensor);
  void update(const Argument& argument);
  void update_storage(const Argument& argument);

  c10::Storage device_storage(const c10::Storage& storage);
  c10::DataPtr take_over(const c10::Storage& storage);
  at::Tensor new_on_device(const at::Tensor& tensor);
  at::Tensor strided_on_device(const at::Tensor& tensor);

  template <class Convert>
  at::QuantizerPtr convert_quantizer(const at::QuantizerPtr& quantizer, Convert convert);

  c10::DeviceIndex device_;
  std::vector<Argument> arguments_;
  // Device storage -> itself and its alias.
  std::unordered_map<c10::StorageImpl*, std::pair<c10::Storage, c10::Storage>> storages_;
  // Storage made by the kernel -> itself (kept, so that its address stays
  // unique) and the device storage that took it over.
  std::unordered_map<c10::StorageImpl*, std::pair<c10::Storage, c10::Storage>> adopted_;
  // Quantiser -> its counterpart, in both directions.
  std::vector<std::pair<at::QuantizerPtr, at::QuantizerPtr>> quantizers_;
};

// A sparse COO tensor of these components, without a check of the indices. Its
// device is the values' one.
OPENREG_API at::Tensor sparse_coo_of(const at::Tensor& indices,
                                     const at::Tensor& values,
                                     c10::IntArrayRef sizes,
                                     int64_t sparse_dim,
                                     int64_t dense_dim,
                                     bool coalesced);

// A sparse compressed tensor (CSR, CSC, BSR, BSC) of these components.
OPENREG_API at::Tensor sparse_compressed_of(const at::Tensor& compressed_indices,
                                            const at::Tensor& plain_indices,
                                            const at::Tensor& values,
                                            c10::IntArrayRef sizes,
                                            c10::Layout layout);

} // namespace at::openreg

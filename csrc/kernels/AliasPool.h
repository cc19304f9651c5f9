#pragma once

// CPU tensors that alias device memory, and how a captured tensor argument
// becomes one.
//
// Note [Aliases]
// A device kernel here is an ATen CPU kernel that runs on CPU tensors whose
// storage lies at the backing address of the device tensor's. The aliases own
// nothing. A worker keeps the aliases it made and fills them anew for each
// kernel, unless the kernel kept one, so that a small kernel allocates nothing.

#include <ATen/core/Tensor.h>
#include <c10/core/impl/SizesAndStrides.h>

#include <deque>
#include <memory>
#include <unordered_map>

#include "runtime/Exception.h"

namespace at::openreg {

// A tensor argument as a launch captures it: by value, without a reference to
// the tensor. CPU tensors (which operators allow where they are scalars, and as
// indices) are captured with their data.
class OPENREG_API TensorArg {
 public:
  TensorArg() = default; // undefined tensor
  // A kernel that writes to a copy-on-write tensor needs the copy made first.
  explicit TensorArg(const at::Tensor& tensor, bool is_written = false);

  // A CPU tensor for the running kernel; the pool's until the kernel ends.
  const at::Tensor& materialize() const;
  // Of its first element, for the running kernel.
  void* address() const;

  bool defined() const {
    return kind_ != Kind::Undefined;
  }
  // Bytes of the elements.
  size_t size_in_bytes() const;
  // A number for the dtype and for what kernels choose their code by as well: are the
  // dimensions none, one or more, and the elements. 0 for undefined tensors.
  uint64_t form() const {
    return form_;
  }

 private:
  enum class Kind : uint8_t { Undefined, Device, Inline, Host };

  void capture_host(const at::Tensor& tensor, bool is_written);
  void* storage_bytes() const; // for the running kernel

  c10::impl::SizesAndStrides sizes_and_strides_;
  void* base_ = nullptr; // the storage's first byte, a device address
  size_t nbytes_ = 0;    // the storage's size
  int64_t offset_ = 0;   // in elements
  uint16_t form_ = 0;
  at::ScalarType dtype_ = at::kFloat;
  Kind kind_ = Kind::Undefined;
  bool conj_ = false;
  bool neg_ = false;
  bool wrapped_number_ = false;
  alignas(16) char value_[16];   // Inline: the element
  std::unique_ptr<char[]> host_; // Host: a contiguous copy
};

// While one lives, the thread's device arguments become tensors of zeros, in
// memory of their own (Note [Rehearsal]).
class OPENREG_API ZeroAliases {
 public:
  ZeroAliases();
  ~ZeroAliases();
  ZeroAliases(const ZeroAliases&) = delete;
  ZeroAliases& operator=(const ZeroAliases&) = delete;

  // Those of the calling thread, or null.
  static ZeroAliases* of_thread();
  void* memory_for(void* base, size_t nbytes);

 private:
  std::unordered_map<void*, std::unique_ptr<void, void (*)(void*)>> memory_;
};

class AliasPool {
 public:
  // Begins a kernel: all aliases of the thread may be filled anew.
  struct Scope {
    Scope();
    ~Scope();
  };

  static AliasPool& of_thread();

  const at::Tensor& make(void* data,
                         size_t nbytes,
                         int64_t offset,
                         at::ScalarType dtype,
                         c10::IntArrayRef sizes,
                         c10::IntArrayRef strides);

 private:
  std::deque<at::Tensor> tensors_;
  size_t used_ = 0;
};

// A CPU tensor of its own that aliases a device tensor's storage `storage`
// (itself an alias, see alias_storage), for kernels run by the host thread.
OPENREG_API c10::Storage alias_storage(const c10::Storage& storage);
OPENREG_API at::Tensor alias_tensor(const at::Tensor& tensor, c10::Storage aliased_storage);

} // namespace at::openreg

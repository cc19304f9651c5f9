#include "runtime/SharedMemory.h"

#include <c10/util/error.h>

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <memory>

#include "openreg_ipc.h"
#include "runtime/CachingAllocator.h"
#include "runtime/DeviceMemory.h"
#include "runtime/Fork.h"
#include "runtime/Functions.h"

namespace c10::openreg {
namespace {

int duplicate(int file) {
  const int copy = fcntl(file, F_DUPFD_CLOEXEC, 0);
  TORCH_CHECK(copy >= 0,
              "no file descriptor for shared device memory: ", c10::utils::str_error(errno));
  return copy;
}

struct SharedBlock {
  void* pointer;
  int file;
};

void delete_block(void* context) {
  const std::unique_ptr<SharedBlock> block(static_cast<SharedBlock*>(context));
  close(block->file);
  if (!in_forked_child()) {
    // The system frees the memory at the latest when the process ends.
    (void)orFree(block->pointer);
  }
}

DataPtr data_ptr(SharedBlock block, DeviceIndex device) {
  return {block.pointer, new SharedBlock(block), &delete_block,
          Device(DeviceType::PrivateUse1, device)};
}

// Device memory that the caching allocator holds unused counts as free.
template <typename Allocate>
void allocate_on(DeviceIndex device, Allocate allocate) {
  const DeviceIndex previous = exchange_device(device);
  orError_t error = allocate();
  if (error == orErrorMemoryAllocation) {
    (void)orGetLastError();
    CachingAllocator::get()->emptyCache({0, 0});
    error = allocate();
  }
  set_device(previous);
  OPENREG_CHECK(error);
}

} // namespace

int share_storage(const Storage& storage) {
  TORCH_CHECK(storage.device_type() == DeviceType::PrivateUse1,
              "share_storage: expected a storage of device openreg, got ", storage.device());
  check_not_forked();
  const DeviceIndex device = storage.device().index();
  device_synchronize(device);
  if (storage.data_ptr().get_deleter() == &delete_block) {
    return duplicate(static_cast<SharedBlock*>(storage.data_ptr().get_context())->file);
  }
  const size_t size = storage.nbytes();
  TORCH_CHECK(size > 0, "share_storage: expected a storage that is not empty");
  SharedBlock block{};
  allocate_on(device, [&] { return orMallocShared(&block.pointer, size, &block.file); });
  DataPtr shared = data_ptr(block, device);
  OPENREG_CHECK(orMemcpy(block.pointer, storage.data(), size, orMemcpyDeviceToDevice));
  storage.set_data_ptr_noswap(std::move(shared));
  return duplicate(block.file);
}

Storage open_shared_storage(int file, DeviceIndex device) {
  check_not_forked();
  check_device(device);
  SharedBlock block{};
  size_t size = 0;
  allocate_on(device, [&] { return orOpenShared(&block.pointer, file, &size); });
  try {
    block.file = duplicate(file);
  } catch (...) {
    (void)orFree(block.pointer);
    throw;
  }
  return make_intrusive<StorageImpl>(StorageImpl::use_byte_size_t(), size, data_ptr(block, device),
                                     GetAllocator(DeviceType::PrivateUse1), /*resizable=*/true);
}

} // namespace c10::openreg

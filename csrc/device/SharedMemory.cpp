// See Note [Memory shared between processes].

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "Device.h"
#include "Trace.h"
#include "openreg_ipc.h"

using namespace openreg;

namespace {

// Nobody may shrink the file under a mapping of it: an access would be a SIGBUS.
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

orError_t map(const char* caller, Device* device, int file, size_t size, void** pointer) {
  OR_TRY(device->checkSticky());
  OR_TRY(device->heap.allocateShared(caller, size, file, pointer));
  if (isTraced(orTraceAlloc)) {
    traceMemory(orTraceAlloc, caller, device->ordinal, 0, *pointer, size);
  }
  return orSuccess;
}

} // namespace

orError_t orMallocShared(void** pointer, size_t size, int* file) {
  OR_TRY(ensureReady());
  Device* device;
  OR_TRY(currentDevice(&device));
  if (!pointer || !file) {
    return fail(orErrorInvalidValue, "orMallocShared: %s is NULL", pointer ? "file" : "pointer");
  }
  if (size == 0) {
    return fail(orErrorInvalidValue, "orMallocShared: size must be positive, got 0");
  }
  int created = memfd_create("openreg", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (created < 0) {
    return fail(orErrorMemoryAllocation, "orMallocShared: no file descriptor (%s)",
                strerror(errno));
  }
  orError_t error;
  if (ftruncate(created, static_cast<off_t>(size)) != 0 || fcntl(created, F_ADD_SEALS, kSeals)) {
    error = fail(orErrorMemoryAllocation, "orMallocShared: no memory file of %zu bytes (%s)", size,
                 strerror(errno));
  } else {
    error = map("orMallocShared", device, created, size, pointer);
  }
  if (error != orSuccess) {
    close(created);
    return error;
  }
  *file = created;
  return orSuccess;
}

orError_t orOpenShared(void** pointer, int file, size_t* size) {
  OR_TRY(ensureReady());
  Device* device;
  OR_TRY(currentDevice(&device));
  if (!pointer || !size) {
    return fail(orErrorInvalidValue, "orOpenShared: %s is NULL", pointer ? "size" : "pointer");
  }
  struct stat status;
  if (fstat(file, &status) != 0 || fcntl(file, F_GET_SEALS) != kSeals || status.st_size == 0) {
    return fail(orErrorInvalidValue,
                "orOpenShared: file must be a descriptor from orMallocShared, got %d", file);
  }
  *size = static_cast<size_t>(status.st_size);
  return map("orOpenShared", device, file, *size, pointer);
}

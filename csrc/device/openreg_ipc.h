#pragma once

// Device memory shared between processes.

#include "openreg.h"

#if defined(__cplusplus)
extern "C" {
#endif

// Note [Memory shared between processes]
// A shared block's bytes are a memory file (memfd_create), named by its
// descriptor alone, which travels over a Unix socket (SCM_RIGHTS) as any other.
// The system counts who has the file open or mapped: the memory goes with the
// last one, also if processes are killed, and no process waits for another.
// Each process counts the block against its own device's capacity.

// Allocates `size` bytes on the current device that other processes can open;
// orFree frees it. *file is a new descriptor, to be closed by the caller,
// independent of the block's life.
OR_API orError_t orMallocShared(void** pointer, size_t size, int* file);

// Opens the block of which `file` is a descriptor (it may be closed afterwards)
// on the current device; orFree closes it. *size is what the block was
// allocated with.
OR_API orError_t orOpenShared(void** pointer, int file, size_t* size);

#if defined(__cplusplus)
}
#endif

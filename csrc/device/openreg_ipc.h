#pragma once

// Device memory and events shared between processes.

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

// Note [Events shared between processes]
// An event created with orEventInterprocess is a page that several processes
// map: the number of the last record, and of each of the last 128 records whether
// it is reached, and which process made it. Records come from any process and
// may be reached in any order; to wait is to wait for the last record that there
// was when the wait was queued. Who waits sleeps on a futex in the page, and
// looks now and then whether the recording process lives: a record of a process
// that died fails with orErrorProcessDied, at orEventSynchronize and orEventQuery
// at once, of a stream that waits as a failed launch. The page goes with the last
// process, also if all are killed.
enum {
  orEventInterprocess = 4, // flag of orEventCreate, with orEventDisableTiming
};

// The error: another value of orError_t, among those of failed launches.
#define orErrorProcessDied ((orError_t)108)

// Plain bytes, to be sent in any way. Good for processes of the same user and
// process namespace, while the process that made it runs and keeps the event.
typedef struct orIpcEventHandle {
  unsigned char bytes[64];
} orIpcEventHandle;

// Fails if the event was created without orEventInterprocess.
OR_API orError_t orIpcGetEventHandle(orIpcEventHandle* handle, orEvent_t event);

// The event in this process, on the current device; orEventDestroy closes it.
// Fails for a handle that this process made.
OR_API orError_t orIpcOpenEventHandle(orEvent_t* event, const orIpcEventHandle* handle);

#if defined(__cplusplus)
}
#endif

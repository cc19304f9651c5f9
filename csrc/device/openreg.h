#ifndef OPENREG_H_
#define OPENREG_H_

// The device's C API: all that the layers above know of the device, and all
// that a vendor provides in its place. Shaped like the CUDA, HIP and CANN
// runtimes, so that most functions map one to one onto an SDK's own.
//
// Conventions, unless a function says otherwise:
//  - every function returns orSuccess or an error code, and leaves a code and
//    a message for orGetLastError / orGetLastErrorMessage in the calling
//    thread. On an error no output parameter is written.
//  - every function may be called by any thread at any time.
//  - a stream handle of NULL means the default stream of the current device.
//  - sizes are bytes, times are nanoseconds of CLOCK_MONOTONIC.
//  - after fork(), every function fails with orErrorForked in the child if the
//    parent had initialised the library.

#include <stddef.h>
#include <stdint.h>

#define OR_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

// Bumped when a declaration changes meaning or disappears; orGetApiVersion
// returns the value the library was built with.
#define OR_API_VERSION 1

// ---------------------------------------------------------------------------
// Errors
// ---------------------------------------------------------------------------

typedef enum orError_t {
  orSuccess = 0,
  orErrorInvalidValue = 1,          // an argument is out of its range
  orErrorMemoryAllocation = 2,      // the device has not that much free
  orErrorInitialization = 3,        // bad OPENREG_* setting, no address space
  orErrorInvalidDevice = 4,         // no such device ordinal
  orErrorInvalidDevicePointer = 5,  // not (in) an allocation of a device
  orErrorInvalidResourceHandle = 6, // stream or event destroyed or not ours
  orErrorInvalidCopyDirection = 7,  // pointers do not fit the copy kind
  orErrorNotReady = 8,              // query: work is still pending (no failure)
  orErrorPeerAccessAlreadyEnabled = 9,
  orErrorPeerAccessNotEnabled = 10,
  orErrorNotSupported = 11,
  orErrorForked = 12,               // used in a child of the initialising process
  orErrorHostMemoryAllocation = 13, // pinned host memory could not be had

  // A launch failed while it ran. Which class is the kernel's own report (see
  // orKernelFail); the layers above turn each into an exception type.
  orErrorLaunchFailure = 100,
  orErrorLaunchIndex = 101,
  orErrorLaunchValue = 102,
  orErrorLaunchType = 103,
  orErrorLaunchNotImplemented = 104,
  orErrorLaunchOutOfMemory = 105,
  orErrorLaunchLinAlg = 106,
} orError_t;

OR_API int orGetApiVersion(void);

// The code's identifier ("orErrorInvalidValue") and one English sentence.
// Static strings; never NULL, also for unknown codes.
OR_API const char* orGetErrorName(orError_t error);
OR_API const char* orGetErrorString(orError_t error);

// The calling thread's last error, and (orGetLastError only) reset it.
// orErrorNotReady is not recorded as an error.
OR_API orError_t orGetLastError(void);
OR_API orError_t orPeekAtLastError(void);

// What the calling thread's last failed call had to say: names the argument,
// what was expected and what came; for launch failures begins with the name of
// the launch. Valid until the thread's next failed call. Never NULL.
OR_API const char* orGetLastErrorMessage(void);

// Note [Asynchronous errors]
// A launch, copy or host callback that fails while it runs records its error
// with its device; the first one is kept until reported. The next call of
// orDeviceSynchronize, orStreamSynchronize, orStreamQuery, orEventSynchronize,
// orEventQuery or a synchronous copy on that device returns it, once, after
// having waited as it would have; then the device goes on. Work behind the
// failed launch runs regardless. With OPENREG_STICKY_ERRORS=1 the error stays,
// and every call that needs the device returns it, until orDeviceReset. With
// OPENREG_LAUNCH_BLOCKING=1 each asynchronous call waits for its own work and
// returns the error itself.

// ---------------------------------------------------------------------------
// Devices
// ---------------------------------------------------------------------------

typedef struct orDeviceProp {
  char name[64];
  size_t total_memory;       // capacity, OPENREG_DEVICE_MEMORY
  int major, minor;          // compute capability-like version of the device
  int multi_processor_count; // host cores the device computes with
  int max_threads_per_block; // limits that generic code asks for
  int warp_size;
  size_t l2_cache_size;
  int concurrent_kernels;  // 1: kernels of two streams may run at once
  int unified_addressing;  // 1: a pointer tells its device
  int can_map_host_memory; // 0: kernels cannot use pinned memory's address
  uint8_t uuid[16];
} orDeviceProp;

// Number of visible devices: OPENREG_DEVICE_COUNT (default 2), filtered and
// ordered by OPENREG_VISIBLE_DEVICES ("1,0"; empty: none). Does not initialise
// the library, and so may be called before fork().
OR_API orError_t orGetDeviceCount(int* count);
OR_API orError_t orGetDeviceProperties(orDeviceProp* prop, int device);

// The calling thread's current device; 0 in a new thread.
OR_API orError_t orGetDevice(int* device);
OR_API orError_t orSetDevice(int device);

// Waits for all work of all streams of the current device.
OR_API orError_t orDeviceSynchronize(void);

// Waits for all work, frees all memory, streams and events of the current
// device and clears its error. Handles of it are invalid afterwards, its
// default stream excepted.
OR_API orError_t orDeviceReset(void);

// Direct access between devices. Copies work without it; kernels that follow a
// pointer to another device need it (checked only where memory checks are on).
OR_API orError_t orDeviceCanAccessPeer(int* can, int device, int peer);
OR_API orError_t orDeviceEnablePeerAccess(int peer, unsigned flags);
OR_API orError_t orDeviceDisablePeerAccess(int peer);

// ---------------------------------------------------------------------------
// Streams
// ---------------------------------------------------------------------------

typedef struct orStream* orStream_t;
typedef struct orEvent* orEvent_t;

enum { orStreamDefault = 0, orStreamNonBlocking = 1 };

// In-order queues. Work of different streams may run at the same time; there
// is no implicit ordering with the default stream. Lower numbers are higher
// priorities: greatest is -1, least is 0.
OR_API orError_t orStreamCreate(orStream_t* stream);
OR_API orError_t orStreamCreateWithPriority(orStream_t* stream, unsigned flags, int priority);
OR_API orError_t orDeviceGetStreamPriorityRange(int* least, int* greatest);

// Returns at once; what is queued still runs, then the stream is released.
OR_API orError_t orStreamDestroy(orStream_t stream);

OR_API orError_t orDeviceGetDefaultStream(orStream_t* stream, int device);
OR_API orError_t orStreamGetDevice(orStream_t stream, int* device);
OR_API orError_t orStreamGetPriority(orStream_t stream, int* priority);
// Unique in the process and never reused; 0 is no stream.
OR_API orError_t orStreamGetId(orStream_t stream, uint64_t* id);

// orSuccess when all queued work is done, orErrorNotReady otherwise.
OR_API orError_t orStreamQuery(orStream_t stream);
OR_API orError_t orStreamSynchronize(orStream_t stream);

// Later work of the stream waits for the event's last record. An event never
// recorded is not waited for.
OR_API orError_t orStreamWaitEvent(orStream_t stream, orEvent_t event, unsigned flags);

// Runs a function on the stream's worker in stream order. It must not call
// this API except orGetLastError*, and must not block on other streams' work.
OR_API orError_t orLaunchHostFunc(orStream_t stream, void (*function)(void* user), void* user);

// Counts of the work accepted by and finished on the stream since its creation;
// issued == completed means idle. completed >= n, read by any thread, happens
// after all effects of the first n pieces of work. Never fails on a live stream.
OR_API orError_t orStreamGetProgress(orStream_t stream, uint64_t* issued, uint64_t* completed);

// ---------------------------------------------------------------------------
// Events
// ---------------------------------------------------------------------------

enum {
  orEventDefault = 0,       // keeps time
  orEventDisableTiming = 2, // orEventElapsedTime fails on it
};

OR_API orError_t orEventCreate(orEvent_t* event, unsigned flags);
// May be called while a record or a wait of it is queued; these are not
// affected.
OR_API orError_t orEventDestroy(orEvent_t event);
// Marks the point behind all work queued on the stream so far. Recording again
// replaces the earlier point; waits queued before keep theirs.
OR_API orError_t orEventRecord(orEvent_t event, orStream_t stream);
OR_API orError_t orEventQuery(orEvent_t event);
OR_API orError_t orEventSynchronize(orEvent_t event);
// Milliseconds between two completed records. orErrorNotReady while one is
// pending, orErrorInvalidResourceHandle if one was never recorded or keeps no
// time.
OR_API orError_t orEventElapsedTime(float* milliseconds, orEvent_t start, orEvent_t end);

// ---------------------------------------------------------------------------
// Memory
// ---------------------------------------------------------------------------

// Device memory. Its address is the device's: the host faults on it. Aligned
// to 512 bytes; to 2 MiB from that size on. A size of 0 gives NULL.
OR_API orError_t orMalloc(void** pointer, size_t size);
// Waits for the device's work first, as cudaFree does. NULL is accepted.
OR_API orError_t orFree(void* pointer);

// Stream-ordered: the memory may be used by work queued on the stream after the
// call, and until the free is reached. Accounted at the time of the call.
OR_API orError_t orMallocAsync(void** pointer, size_t size, orStream_t stream);
OR_API orError_t orFreeAsync(void* pointer, orStream_t stream);

// Pinned host memory: ordinary memory that copies may use asynchronously.
OR_API orError_t orHostAlloc(void** pointer, size_t size, unsigned flags);
OR_API orError_t orFreeHost(void* pointer);

OR_API orError_t orMemGetInfo(size_t* free, size_t* total);

typedef enum orMemoryType {
  orMemoryTypeUnregistered = 0, // pageable host memory, or nothing at all
  orMemoryTypeHost = 1,         // pinned
  orMemoryTypeDevice = 2,
} orMemoryType;

typedef struct orPointerAttributes {
  orMemoryType type;
  int device;  // -1 for unregistered memory
  void* base;  // start of the allocation, NULL for unregistered memory
  size_t size; // size of the allocation as requested
} orPointerAttributes;

OR_API orError_t orPointerGetAttributes(orPointerAttributes* attributes, const void* pointer);

typedef enum orMemcpyKind {
  orMemcpyHostToHost = 0,
  orMemcpyHostToDevice = 1,
  orMemcpyDeviceToHost = 2,
  orMemcpyDeviceToDevice = 3, // one device or two
  orMemcpyDefault = 4,        // from the pointers
} orMemcpyKind;

// Copies between any two memories; ranges must lie within one allocation and
// not overlap. The forms without Async are in order with the current device's
// default stream and return when the copy is done. The Async forms return at
// once if the host side is pinned; from pageable memory they return once the
// source has been read (small sources are staged, larger ones waited for), to
// pageable memory when the copy is done.
OR_API orError_t orMemcpy(void* dst, const void* src, size_t size, orMemcpyKind kind);
OR_API orError_t
orMemcpyAsync(void* dst, const void* src, size_t size, orMemcpyKind kind, orStream_t stream);
OR_API orError_t orMemcpy2D(void* dst,
                            size_t dst_pitch,
                            const void* src,
                            size_t src_pitch,
                            size_t width,
                            size_t height,
                            orMemcpyKind kind);
OR_API orError_t orMemcpy2DAsync(void* dst,
                                 size_t dst_pitch,
                                 const void* src,
                                 size_t src_pitch,
                                 size_t width,
                                 size_t height,
                                 orMemcpyKind kind,
                                 orStream_t stream);
OR_API orError_t
orMemcpyPeer(void* dst, int dst_device, const void* src, int src_device, size_t size);
OR_API orError_t orMemcpyPeerAsync(
    void* dst, int dst_device, const void* src, int src_device, size_t size, orStream_t stream);
OR_API orError_t orMemset(void* pointer, int value, size_t size);
OR_API orError_t orMemsetAsync(void* pointer, int value, size_t size, orStream_t stream);

// ---------------------------------------------------------------------------
// Launches
// ---------------------------------------------------------------------------

// What a running kernel may ask about itself.
typedef struct orLaunchContext {
  orStream_t stream;
  int device;
  uint64_t sequence;    // position on the stream: the first launch is 1
  uint64_t correlation; // unique in the process; the same for all its trace records
  const char* name;
} orLaunchContext;

typedef struct orMemoryRange {
  const void* base;
  size_t size;
  int is_write;
} orMemoryRange;

// The type of a closure: a C++ callable without C++ in the interface. One
// static object a closure type.
typedef struct orClosureType {
  size_t size;
  size_t alignment; // at most 64
  // Moves *source into *target and ends *source's life. NULL: bytes are copied.
  void (*move)(void* target, void* source);
  // Runs on the stream's worker. May run several times (replay), and returns
  // orSuccess or what orKernelFail returned. Must not throw.
  orError_t (*invoke)(void* closure, const orLaunchContext* context);
  // Ends the closure's life; on the worker after the last run. NULL: nothing.
  void (*destroy)(void* closure);
  // Writes at most `capacity` of the ranges that a run reads and writes and
  // returns how many there are. Called only while somebody traces. NULL: unknown.
  size_t (*ranges)(const void* closure, orMemoryRange* ranges, size_t capacity);
} orClosureType;

// Queues a closure. It is moved into the queue, without a heap allocation if
// at most OR_INLINE_CLOSURE_SIZE large. On failure *closure stays the caller's,
// untouched, except with an orErrorLaunch* code (OPENREG_LAUNCH_BLOCKING: it
// ran; OPENREG_STICKY_ERRORS: it is destroyed). `move` is called with the
// queue's lock held and must not call this API. `name` must live for ever (the operator's name; see
// orInternName). Blocks only while the stream's queue is full.
#define OR_INLINE_CLOSURE_SIZE 2048
OR_API orError_t orLaunch(orStream_t stream,
                          const char* name,
                          const orClosureType* type,
                          void* closure);

// For a kernel that fails: records code (one of orErrorLaunch*) and message
// for the running launch and returns the code, to be returned from invoke.
OR_API orError_t orKernelFail(const orLaunchContext* context, orError_t code, const char* message);

// A copy of `name` that lives for ever; equal names give equal pointers.
OR_API const char* orInternName(const char* name);

// ---------------------------------------------------------------------------
// Tracing: profilers, sanitizers and watchdogs hang on this
// ---------------------------------------------------------------------------

typedef enum orTraceKind {
  orTraceKernel = 1 << 0,
  orTraceMemcpy = 1 << 1,
  orTraceMemset = 1 << 2,
  orTraceHostFunc = 1 << 3,
  orTraceEventRecord = 1 << 4,
  orTraceEventWait = 1 << 5,
  orTraceAlloc = 1 << 6,
  orTraceFree = 1 << 7,
  orTraceSync = 1 << 8, // the host waits: for a stream, an event or the device
  orTraceAll = (1 << 9) - 1,
} orTraceKind;

typedef enum orTracePhase {
  orTraceEnqueue = 0, // on the calling thread; the only phase of alloc and free
  orTraceBegin = 1,   // on the worker; for sync on the waiting thread
  orTraceEnd = 2,
} orTracePhase;

typedef struct orTraceRecord {
  orTraceKind kind;
  orTracePhase phase;
  const char* name; // launch name; "memcpyHtoD" and the like
  int device;
  uint64_t stream;      // orStreamGetId; 0 where there is none
  uint64_t correlation; // 0 where there is none
  uint64_t time;
  const void* pointer; // alloc, free, memset: the memory; memcpy: destination
  const void* source;  // memcpy
  size_t size;
  const orMemoryRange* ranges; // kernel, enqueue phase only
  size_t range_count;
  orError_t error; // end phase
} orTraceRecord;

typedef void (*orTraceCallback)(const orTraceRecord* record, void* user);

// Calls the function for every record whose kind is in the mask, on the thread
// where it happens; it must be quick, must not call this API, and its record is
// valid during the call. Several subscribers are called in order of
// subscription. After orTraceUnsubscribe has returned it is not called again.
OR_API orError_t orTraceSubscribe(uint64_t* subscription,
                                  unsigned kinds,
                                  orTraceCallback callback,
                                  void* user);
OR_API orError_t orTraceUnsubscribe(uint64_t subscription);

#ifdef __cplusplus
} // extern "C"
#endif

#endif // OPENREG_H_

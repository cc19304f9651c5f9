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
  orErrorInvalidResourceHandle = 6, // stream, event or graph destroyed or not ours
  orErrorInvalidCopyDirection = 7,  // pointers do not fit the copy kind
  orErrorNotReady = 8,              // query: work is still pending (no failure)
  orErrorPeerAccessAlreadyEnabled = 9,
  orErrorPeerAccessNotEnabled = 10,
  orErrorNotSupported = 11,
  orErrorForked = 12,               // used in a child of the initialising process
  orErrorHostMemoryAllocation = 13, // pinned host memory could not be had

  // Stream capture. The capture that a call offended is invalidated.
  orErrorStreamCaptureUnsupported = 20, // not permitted while a stream is capturing
  orErrorStreamCaptureInvalidated = 21, // an earlier call invalidated the capture
  orErrorStreamCaptureMerge = 22,       // would join two captures
  orErrorStreamCaptureUnmatched = 23,   // the capture did not begin on this stream
  orErrorStreamCaptureUnjoined = 24,    // a side stream was not joined with the first one
  orErrorStreamCaptureIsolation = 25,   // would depend on work outside the capture
  orErrorStreamCaptureImplicit = 26,    // would make a default stream depend on a capture
  orErrorCapturedEvent = 27,            // the event was last recorded in a capture
  orErrorStreamCaptureWrongThread = 28, // ended by another thread than it began in

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
// is no implicit ordering with the default stream. (orStreamDefault matters to
// captures only, see orErrorStreamCaptureImplicit.) Lower numbers are higher
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
  // Ends the closure's life: on the worker after the run; of a captured launch,
  // on the thread that ends the graph. NULL: nothing.
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
// Graphs: work that is captured once and launched many times
// ---------------------------------------------------------------------------

// Note [Stream capture]
// Between begin and end of a capture, work given to the stream does not run but
// becomes nodes of a graph. An event recorded on a capturing stream marks a
// point in the capture, and a stream that waits for it joins the capture; all
// joined streams must be waited for by the first one before the end. A graph
// spans one device.
//
// What needs a result now cannot be captured: waiting for or querying a
// capturing stream, its device or a captured event, a copy with pageable host
// memory, stream-ordered allocation, an event from outside the capture. Such a
// call fails and invalidates the capture: all later work given to its streams
// fails with orErrorStreamCaptureInvalidated, and so does its end.
//
// Calls that are merely dangerous while somebody captures, because they wait or
// allocate (orMalloc, orFree, orHostAlloc, orFreeHost, orEventQuery, the waiting
// copies, waits for other streams), are judged by mode, as in CUDA.
typedef enum orStreamCaptureMode {
  orStreamCaptureModeGlobal = 0,      // dangerous calls fail in every thread
  orStreamCaptureModeThreadLocal = 1, // in the capturing thread
  orStreamCaptureModeRelaxed = 2,     // nowhere
} orStreamCaptureMode;

typedef enum orStreamCaptureStatus {
  orStreamCaptureStatusNone = 0,
  orStreamCaptureStatusActive = 1,
  orStreamCaptureStatusInvalidated = 2,
} orStreamCaptureStatus;

typedef struct orGraph* orGraph_t;         // what a capture recorded
typedef struct orGraphExec* orGraphExec_t; // a graph made ready to launch

// Fails for default streams and for a stream that is capturing.
OR_API orError_t orStreamBeginCapture(orStream_t stream, orStreamCaptureMode mode);
// By the thread that began it, unless the mode is Relaxed. Ends the capture also
// when it returns an error about it; *graph is then NULL.
OR_API orError_t orStreamEndCapture(orStream_t stream, orGraph_t* graph);
OR_API orError_t orStreamIsCapturing(orStream_t stream, orStreamCaptureStatus* status);
// The id is unique in the process, the same for all streams of the capture and
// 0 where there is none. `id` may be NULL.
OR_API orError_t orStreamGetCaptureInfo(orStream_t stream,
                                        orStreamCaptureStatus* status,
                                        uint64_t* id);
// Swaps *mode with the calling thread's own mode, Global at first: a Relaxed
// thread may make dangerous calls, a ThreadLocal one is not concerned with
// other threads' captures.
OR_API orError_t orThreadExchangeStreamCaptureMode(orStreamCaptureMode* mode);

OR_API orError_t orGraphInstantiate(orGraphExec_t* exec, orGraph_t graph);
// What is launched already still runs to its end, in both of these.
OR_API orError_t orGraphDestroy(orGraph_t graph);
OR_API orError_t orGraphExecDestroy(orGraphExec_t exec);

// Queues one piece of work that runs all nodes, in the order in which they were
// captured, on any stream of the graph's device. Launches of one graph never
// overlap. On a capturing stream it becomes a node. Failing nodes are reported
// as launches are; those behind them run regardless.
OR_API orError_t orGraphLaunch(orGraphExec_t exec, orStream_t stream);

typedef struct orGraphNode {
  unsigned kind;         // an orTraceKind
  const char* name;      // of the launch
  uint64_t stream;       // orStreamGetId of the stream it was captured on
  const size_t* depends; // the nodes that it comes after, by their places
  size_t depends_count;  // in the graph; valid while the graph is
  size_t size;           // copies and fills: bytes
} orGraphNode;

// Writes at most `capacity` nodes, in the order of capture; *count is how many
// there are. `nodes` may be NULL if `capacity` is 0.
OR_API orError_t orGraphGetNodes(orGraph_t graph,
                                 orGraphNode* nodes,
                                 size_t capacity,
                                 size_t* count);
// Writes the graph in the DOT language, one cluster a stream.
OR_API orError_t orGraphDebugDotPrint(orGraph_t graph, const char* path);

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
  // A graph's launch. Begin and end of its nodes come between its own, with
  // their kinds and names and with the launch's correlation.
  orTraceGraph = 1 << 9,
  orTraceAll = (1 << 10) - 1,
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

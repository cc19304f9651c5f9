#include "Error.h"

#include <cstdarg>
#include <cstdio>
#include <string>

namespace openreg {
namespace {

// The code is apart from the message: reading it must stay free of the dynamic
// initialisation that a thread_local with a destructor brings.
thread_local orError_t lastError = orSuccess;

std::string& lastMessage() {
  thread_local std::string message;
  return message;
}

struct ErrorText {
  const char* name;
  const char* sentence;
};

ErrorText textOf(orError_t error) {
  // These are not of the enumeration.
  if (error == orErrorLaunchTimeout) {
    return {"orErrorLaunchTimeout", "a launch did not end within OPENREG_LAUNCH_TIMEOUT"};
  }
  if (error == orErrorProcessDied) {
    return {"orErrorProcessDied", "the process that recorded an event died before it was reached"};
  }
  switch (error) {
    case orSuccess:
      return {"orSuccess", "no error"};
    case orErrorInvalidValue:
      return {"orErrorInvalidValue", "an argument is out of its range"};
    case orErrorMemoryAllocation:
      return {"orErrorMemoryAllocation", "out of device memory"};
    case orErrorInitialization:
      return {"orErrorInitialization", "the device could not be initialised"};
    case orErrorInvalidDevice:
      return {"orErrorInvalidDevice", "invalid device ordinal"};
    case orErrorInvalidDevicePointer:
      return {"orErrorInvalidDevicePointer", "the pointer is not in an allocation of a device"};
    case orErrorInvalidResourceHandle:
      return {"orErrorInvalidResourceHandle",
              "the stream, event or graph does not exist or was destroyed"};
    case orErrorInvalidCopyDirection:
      return {"orErrorInvalidCopyDirection", "the pointers do not fit the direction of the copy"};
    case orErrorNotReady:
      return {"orErrorNotReady", "work is still pending"};
    case orErrorPeerAccessAlreadyEnabled:
      return {"orErrorPeerAccessAlreadyEnabled", "access to the peer device is already enabled"};
    case orErrorPeerAccessNotEnabled:
      return {"orErrorPeerAccessNotEnabled", "access to the peer device is not enabled"};
    case orErrorNotSupported:
      return {"orErrorNotSupported", "the operation is not supported"};
    case orErrorForked:
      return {"orErrorForked", "the device cannot be used in a process forked from the one that "
                               "initialised it"};
    case orErrorHostMemoryAllocation:
      return {"orErrorHostMemoryAllocation", "out of pinned host memory"};
    case orErrorStreamCaptureUnsupported:
      return {"orErrorStreamCaptureUnsupported",
              "operation not permitted when stream is capturing"};
    case orErrorStreamCaptureInvalidated:
      return {"orErrorStreamCaptureInvalidated",
              "operation failed due to a previous error during capture"};
    case orErrorStreamCaptureMerge:
      return {"orErrorStreamCaptureMerge", "operation would merge two captures"};
    case orErrorStreamCaptureUnmatched:
      return {"orErrorStreamCaptureUnmatched", "capture was not begun on this stream"};
    case orErrorStreamCaptureUnjoined:
      return {"orErrorStreamCaptureUnjoined", "capturing stream has unjoined work"};
    case orErrorStreamCaptureIsolation:
      return {"orErrorStreamCaptureIsolation", "dependency on uncaptured work in another stream"};
    case orErrorStreamCaptureImplicit:
      return {"orErrorStreamCaptureImplicit",
              "operation would make a default stream depend on a capturing stream"};
    case orErrorCapturedEvent:
      return {"orErrorCapturedEvent",
              "operation not permitted on an event last recorded in a capturing stream"};
    case orErrorStreamCaptureWrongThread:
      return {"orErrorStreamCaptureWrongThread",
              "capture must be ended by the thread that began it"};
    case orErrorLaunchFailure:
      return {"orErrorLaunchFailure", "a launch failed while it ran"};
    case orErrorLaunchIndex:
      return {"orErrorLaunchIndex", "a launch met an index out of range"};
    case orErrorLaunchValue:
      return {"orErrorLaunchValue", "a launch met an invalid value"};
    case orErrorLaunchType:
      return {"orErrorLaunchType", "a launch met an invalid type"};
    case orErrorLaunchNotImplemented:
      return {"orErrorLaunchNotImplemented", "a launch is not implemented for this"};
    case orErrorLaunchOutOfMemory:
      return {"orErrorLaunchOutOfMemory", "a launch ran out of device memory"};
    case orErrorLaunchLinAlg:
      return {"orErrorLaunchLinAlg", "a linear algebra routine failed in a launch"};
  }
  return {"orErrorUnknown", "unknown error code"};
}

} // namespace

orError_t fail(orError_t code, const char* format, ...) {
  char buffer[512];
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(buffer, sizeof(buffer), format, arguments);
  va_end(arguments);
  std::string& message = lastMessage();
  if (length < static_cast<int>(sizeof(buffer))) {
    message = buffer;
  } else {
    message.resize(length);
    va_start(arguments, format);
    vsnprintf(message.data(), length + 1, format, arguments);
    va_end(arguments);
  }
  lastError = code;
  return code;
}

} // namespace openreg

using namespace openreg;

const char* orGetErrorName(orError_t error) {
  return textOf(error).name;
}

const char* orGetErrorString(orError_t error) {
  return textOf(error).sentence;
}

orError_t orGetLastError(void) {
  orError_t error = lastError;
  lastError = orSuccess;
  return error;
}

orError_t orPeekAtLastError(void) {
  return lastError;
}

const char* orGetLastErrorMessage(void) {
  return lastMessage().c_str();
}

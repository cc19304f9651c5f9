#include "runtime/Exception.h"

#include <c10/util/Exception.h>

#include <string>

namespace c10::openreg {

void throw_device_error(
    orError_t error, const char* /*call*/, const char* function, const char* file, uint32_t line) {
  const SourceLocation location{function, file, line};
  // The message names the failed call and its argument. A query that found work
  // pending is no failure, and leaves no message.
  std::string message =
      error == orErrorNotReady ? orGetErrorString(error) : orGetLastErrorMessage();
  if (message.empty()) {
    message = orGetErrorString(error);
  }
  // What has been thrown has been reported: a later orGetLastError must not
  // find it again.
  orGetLastError();

  switch (error) {
    case orErrorMemoryAllocation:
    case orErrorLaunchOutOfMemory:
      throw OutOfMemoryError(location, message);
    case orErrorLaunchIndex:
      throw IndexError(location, message);
    case orErrorLaunchValue:
      throw ValueError(location, message);
    case orErrorLaunchType:
      throw TypeError(location, message);
    case orErrorLaunchNotImplemented:
      throw NotImplementedError(location, message);
    case orErrorLaunchLinAlg:
      throw LinAlgError(location, message);
    case orErrorLaunchFailure:
      // The kernel raised a plain error, which the CPU would have raised as
      // RuntimeError.
      throw Error(location, message);
    case orErrorForked:
      throw Error(location, "Cannot re-initialize openreg in forked subprocess. To use openreg "
                            "with multiprocessing, you must use the 'spawn' start method");
    default:
      throw AcceleratorError(location, static_cast<int32_t>(error),
                             message + " (" + orGetErrorName(error) + ")");
  }
}

} // namespace c10::openreg

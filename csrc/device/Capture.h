#pragma once

#include "Error.h"
#include "Runtime.h"

// What the rest of the library must ask while streams are captured; see
// Note [Stream capture] in openreg.h. With no capture under way each question
// costs the test of a flag.

namespace openreg {

class Device;
class Stream;
struct Event;
struct Work;

// If the stream is capturing, takes the work into the graph, or refuses it, and
// returns true with the result in *error. Ends the life of *closure if that is
// orSuccess.
bool captureWork(Stream* stream, const Work& work, void* closure, orError_t* error);

// The same for a record of an event and for a wait for one.
bool captureRecord(Event* event, Stream* stream, orError_t* error);
bool captureWait(Event* event, Stream* stream, orError_t* error);

// Calls that cannot be captured, fail if the stream is capturing.
orError_t checkCaptureOfSlow(const char* caller, Stream* stream);
inline orError_t checkCaptureOf(const char* caller, Stream* stream) {
  return hasFlag(kCapturing) ? checkCaptureOfSlow(caller, stream) : orSuccess;
}

// Calls that wait or allocate fail as the captures' modes want.
orError_t checkDangerousSlow(const char* caller);
inline orError_t checkDangerous(const char* caller) {
  return hasFlag(kCapturing) ? checkDangerousSlow(caller) : orSuccess;
}

// Calls that wait for a stream, a device or an event.
inline orError_t checkWait(const char* caller, Stream* stream) {
  OR_TRY(checkCaptureOf(caller, stream));
  return checkDangerous(caller);
}
orError_t checkWaitSlow(const char* caller, Device* device);
inline orError_t checkWait(const char* caller, Device* device) {
  return hasFlag(kCapturing) ? checkWaitSlow(caller, device) : orSuccess;
}
orError_t checkEvent(const char* caller, Event* event);

} // namespace openreg

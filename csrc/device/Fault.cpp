#include "Fault.h"

#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "Device.h"
#include "Memory.h"
#include "Runtime.h"

// Everything reachable from onFault must be async-signal-safe: no allocation,
// no stdio, no waiting for a lock.

namespace openreg {
namespace {

struct sigaction previousSegv;
struct sigaction previousBus;

// Text without stdio.
class Line {
 public:
  Line& text(const char* text) {
    while (*text && length_ < sizeof(buffer_) - 1) {
      buffer_[length_++] = *text++;
    }
    return *this;
  }
  Line& number(uint64_t value, unsigned base = 10) {
    char digits[24];
    size_t at = sizeof(digits) - 1;
    digits[at] = '\0';
    do {
      digits[--at] = "0123456789abcdef"[value % base];
      value /= base;
    } while (value);
    return text(base == 16 ? "0x" : "").text(digits + at);
  }
  void write() {
    buffer_[length_++] = '\n';
    for (size_t done = 0; done < length_;) {
      ssize_t count = ::write(STDERR_FILENO, buffer_ + done, length_ - done);
      if (count <= 0) {
        return;
      }
      done += static_cast<size_t>(count);
    }
  }

 private:
  char buffer_[400];
  size_t length_ = 0;
};

void report(uintptr_t fault) {
  bool by_device = !(fault >= orDeviceRangeBegin && fault < orDeviceRangeEnd);
  // In the backing: only there with OPENREG_MEMORY_CHECK, where it is closed
  // outside allocations.
  uintptr_t address = by_device ? fault - orBackingOffset : fault;
  int ordinal = deviceOfAddress(reinterpret_cast<void*>(address));
  if (ordinal < 0) {
    return;
  }
  Line line;
  line.text(by_device ? "openreg: device code accessed memory that is not allocated, at "
                      : "openreg: host access to device memory at ");
  line.number(address, 16).text(": device ").number(ordinal).text(", ");
  Block block;
  bool busy = false;
  bool found = deviceAt(ordinal).heap.find(address, &block, true, &busy);
  if (found) {
    line.text("allocation [")
        .number(block.begin, 16)
        .text(", ")
        .number(block.size)
        .text(" bytes], offset ")
        .number(address - block.begin);
  } else {
    line.text(busy ? "allocation unknown (the table was in use)"
                   : "not in an allocation (freed, out of bounds, or never allocated)");
  }
  if (!by_device) {
    line.text("; the host cannot touch device memory: copy it to the host first");
  }
  line.write();
}

void onFault(int signal, siginfo_t* info, void* context) {
  int saved = errno;
  // A process that was forked has other memory, if any, at these addresses, and
  // a signal that was sent has no address.
  if (info->si_code > 0 && !hasFlag(kForked)) {
    report(reinterpret_cast<uintptr_t>(info->si_addr));
  }
  const struct sigaction& previous = signal == SIGSEGV ? previousSegv : previousBus;
  errno = saved;
  if (previous.sa_flags & SA_SIGINFO) {
    previous.sa_sigaction(signal, info, context);
    return;
  }
  if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
    previous.sa_handler(signal);
    return;
  }
  if (previous.sa_handler == SIG_IGN && info->si_code <= 0) {
    return;
  }
  // The default action, from where it happened: the access faults again on
  // return, so that exit status and core are as without us. A signal that was
  // sent must be sent again.
  struct sigaction action;
  memset(&action, 0, sizeof(action));
  action.sa_handler = SIG_DFL;
  sigaction(signal, &action, nullptr);
  if (info->si_code <= 0) {
    syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), signal);
  }
}

} // namespace

void installFaultHandler() {
  struct sigaction action;
  memset(&action, 0, sizeof(action));
  action.sa_sigaction = onFault;
  // The alternate stack, where a thread has one: it may have overflowed its own.
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  // The previous handler must be known before ours can run.
  sigaction(SIGSEGV, nullptr, &previousSegv);
  sigaction(SIGBUS, nullptr, &previousBus);
  sigaction(SIGSEGV, &action, nullptr);
  sigaction(SIGBUS, &action, nullptr);
}

} // namespace openreg

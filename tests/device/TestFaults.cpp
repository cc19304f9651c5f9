#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "Test.h"

using namespace test;

namespace {

// Not optimised away, and not instrumented: a sanitizer would look at the
// address itself.
__attribute__((noinline, no_sanitize("address", "thread"))) char
touch(const volatile char* pointer) {
  return *pointer;
}

bool contains(const Outcome& outcome, const std::string& text) {
  if (outcome.errors.find(text) != std::string::npos) {
    return true;
  }
  fprintf(stderr, "not in: %s\n", outcome.errors.c_str());
  return false;
}

bool diedOf(const Outcome& outcome, int signal) {
  return WIFSIGNALED(outcome.status) && WTERMSIG(outcome.status) == signal;
}

void announce(const void* base) {
  fprintf(stderr, "base 0x%zx\n", reinterpret_cast<size_t>(base));
}

} // namespace

CHILD(ChildTouchesAllocation) {
  OK(orSetDevice(1));
  void* memory;
  OK(orMalloc(&memory, 1000));
  touch(static_cast<char*>(memory) + 17);
}

TEST(HostAccessIsReported) {
  Outcome outcome = runChild("ChildTouchesAllocation");
  EXPECT(diedOf(outcome, SIGSEGV));
  EXPECT(contains(outcome, "openreg: host access to device memory at 0x"));
  EXPECT(contains(outcome, ": device 1, allocation [0x"));
  EXPECT(contains(outcome, ", 1000 bytes], offset 17"));
}

CHILD(ChildTouchesFreed) {
  void* memory;
  OK(orMalloc(&memory, 1000));
  OK(orFree(memory));
  touch(static_cast<char*>(memory));
}

TEST(HostAccessToFreedMemoryIsReported) {
  Outcome outcome = runChild("ChildTouchesFreed");
  EXPECT(diedOf(outcome, SIGSEGV));
  EXPECT(contains(outcome, "device 0, not in an allocation"));
}

CHILD(ChildTouchesWorkerSide) {
  // A kernel that forgets to translate the address faults, too.
  void* memory;
  OK(orMalloc(&memory, 1000));
  OK(launch(nullptr, "forgetful", [=] { touch(static_cast<char*>(memory)); }));
  orStreamSynchronize(nullptr);
}

TEST(UntranslatedAccessOfAKernelIsReported) {
  Outcome outcome = runChild("ChildTouchesWorkerSide");
  EXPECT(diedOf(outcome, SIGSEGV));
  EXPECT(contains(outcome, "host access to device memory"));
}

CHILD(ChildTouchesNothing) {
  OK(orSetDevice(0));
  touch(reinterpret_cast<char*>(8));
}

TEST(OtherFaultsAreLeftAlone) {
  Outcome outcome = runChild("ChildTouchesNothing");
  EXPECT(diedOf(outcome, SIGSEGV));
  EXPECT(outcome.errors.find("openreg:") == std::string::npos);
}

CHILD(ChildIsSentASignal) {
  OK(orSetDevice(0));
  kill(getpid(), SIGSEGV);
  usleep(1000000);
}

TEST(SentSignalsHaveTheirDefaultAction) {
  Outcome outcome = runChild("ChildIsSentASignal");
  EXPECT(diedOf(outcome, SIGSEGV));
}

CHILD(ChildHasAHandler) {
  struct sigaction action = {};
  action.sa_flags = SA_SIGINFO;
  action.sa_sigaction = [](int, siginfo_t* info, void*) {
    const char text[] = "previous handler ran\n";
    (void)!write(2, text, sizeof(text) - 1);
    _exit(info->si_addr ? 33 : 34);
  };
  sigaction(SIGSEGV, &action, nullptr);
  void* memory;
  OK(orMalloc(&memory, 1000));
  touch(static_cast<char*>(memory));
}

TEST(PreviousHandlerRunsAfterTheReport) {
  Outcome outcome = runChild("ChildHasAHandler");
  EXPECT(WIFEXITED(outcome.status));
  EXPECT_EQ(WEXITSTATUS(outcome.status), 33);
  EXPECT(contains(outcome, "offset 0"));
  EXPECT(contains(outcome, "previous handler ran"));
}

CHILD(ChildKernelTouchesFreed) {
  void *memory, *other;
  OK(orMalloc(&memory, 5000));
  OK(orMalloc(&other, 5000));
  announce(memory);
  OK(launch(nullptr, "fine", [=] { memset(orBacking(memory), 1, 5000); }));
  OK(orFree(memory));
  OK(launch(nullptr, "late", [=] { touch(static_cast<char*>(orBacking(memory))); }));
  orStreamSynchronize(nullptr);
}

TEST(MemoryCheckCatchesKernels) {
  Outcome outcome = runChild("ChildKernelTouchesFreed", "OPENREG_MEMORY_CHECK=1");
  EXPECT(diedOf(outcome, SIGSEGV));
  EXPECT(contains(outcome, "device code accessed memory that is not allocated, at 0x"));
  EXPECT(contains(outcome, "device 0, not in an allocation"));
  // Without the check the bytes are there.
  outcome = runChild("ChildKernelTouchesFreed");
  EXPECT_EQ(outcome.status, 0);
}

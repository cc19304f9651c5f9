// See Note [Events shared between processes].

#include "SharedEvent.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstdio>
#include <cstring>

#include "Runtime.h"
#include "Stream.h"

namespace openreg {

// Lock-free atomics work between processes as between threads.
struct EventSlot {
  std::atomic<uint64_t> number; // of the record that it is for
  std::atomic<uint32_t> state;
  std::atomic<uint32_t> process; // that recorded it, and
  std::atomic<uint64_t> started; // when that began: numbers of processes come again
};

struct EventPage {
  static constexpr uint64_t kMagic = 0x31746e6576456f72;
  static constexpr size_t kSize = 4096;
  static constexpr uint64_t kSlots = 128;

  uint64_t magic;
  pthread_mutex_t lock; // robust; for records
  alignas(64) std::atomic<uint64_t> last;
  std::atomic<uint32_t> wakes; // futex; grows with every record that is reached
  alignas(64) EventSlot slots[kSlots];

  EventSlot& slot(uint64_t number) {
    return slots[number % kSlots];
  }
};
static_assert(sizeof(EventPage) <= EventPage::kSize, "one page");
static_assert(std::atomic<uint64_t>::is_always_lock_free, "shared between processes");

namespace {

// States of a record.
constexpr uint32_t kPending = 0;
constexpr uint32_t kReached = 1;
constexpr uint32_t kDead = 2; // and so was who recorded it

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
// How often who waits looks whether the recording process is alive.
constexpr long kLookNanoseconds = 20000000;

// What a handle says.
struct Handle {
  uint64_t magic;
  uint32_t process;
  int32_t file;
  uint64_t device, inode; // the file's identity
  uint64_t started;
};
static_assert(sizeof(Handle) <= sizeof(orIpcEventHandle), "");

// When a process began, in ticks since the system did; 0: it is no more.
uint64_t startOf(uint32_t process) {
  char path[32];
  snprintf(path, sizeof(path), "/proc/%u/stat", process);
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) {
    return 0;
  }
  char text[1024];
  ssize_t size = read(file, text, sizeof(text) - 1);
  close(file);
  if (size <= 0) {
    return 0;
  }
  text[size] = '\0';
  const char* at = strrchr(text, ')'); // the name, which may contain anything
  char state = 0;
  unsigned long long started = 0;
  if (!at || sscanf(at + 1,
                    " %c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s "
                    "%llu",
                    &state, &started) != 2) {
    return 0;
  }
  return state == 'Z' || state == 'X' ? 0 : started;
}

uint32_t ownProcess() {
  static const auto process = static_cast<uint32_t>(getpid());
  return process;
}

uint64_t ownStart() {
  static const uint64_t started = startOf(ownProcess());
  return started;
}

EventPage* map(int file) {
  void* page = mmap(nullptr, EventPage::kSize, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  return page == MAP_FAILED ? nullptr : static_cast<EventPage*>(page);
}

} // namespace

std::unique_ptr<SharedEvent> SharedEvent::create(orError_t* error) {
  int file = memfd_create("openreg-event", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  EventPage* page = nullptr;
  if (file >= 0 && ftruncate(file, EventPage::kSize) == 0 &&
      fcntl(file, F_ADD_SEALS, kSeals) == 0) {
    page = map(file);
  }
  if (!page) {
    *error =
        fail(orErrorHostMemoryAllocation, "orEventCreate: no page to share (%s)", strerror(errno));
    if (file >= 0) {
      close(file);
    }
    return nullptr;
  }
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(&page->lock, &attributes);
  pthread_mutexattr_destroy(&attributes);
  page->magic = EventPage::kMagic; // the rest is zero, and so right
  *error = orSuccess;
  return std::unique_ptr<SharedEvent>(new SharedEvent(page, file));
}

std::unique_ptr<SharedEvent> SharedEvent::open(const orIpcEventHandle& bytes, orError_t* error) {
  static const char kCaller[] = "orIpcOpenEventHandle";
  Handle handle;
  memcpy(&handle, bytes.bytes, sizeof(handle));
  if (handle.magic != EventPage::kMagic) {
    *error = fail(orErrorInvalidValue, "%s: handle must come from orIpcGetEventHandle", kCaller);
    return nullptr;
  }
  if (handle.process == ownProcess() && handle.started == ownStart()) {
    *error = fail(orErrorInvalidResourceHandle,
                  "%s: the handle is of an event of this process, which can use the event itself",
                  kCaller);
    return nullptr;
  }
  char path[48];
  snprintf(path, sizeof(path), "/proc/%u/fd/%d", handle.process, handle.file);
  int file = ::open(path, O_RDWR | O_CLOEXEC);
  int reason = errno;
  struct stat status{};
  // The number may be another file's by now.
  bool same = file >= 0 && fstat(file, &status) == 0 && status.st_ino == handle.inode &&
              status.st_dev == handle.device && fcntl(file, F_GET_SEALS) == kSeals;
  EventPage* page = same ? map(file) : nullptr;
  if (!page) {
    if (file >= 0) {
      close(file);
    }
    *error = fail(orErrorInvalidResourceHandle,
                  "%s: the event is no more: process %u must run and keep it until the handle is "
                  "opened%s%s",
                  kCaller, handle.process, file < 0 ? ": " : "", file < 0 ? strerror(reason) : "");
    return nullptr;
  }
  *error = orSuccess;
  return std::unique_ptr<SharedEvent>(new SharedEvent(page, file));
}

SharedEvent::~SharedEvent() {
  munmap(page_, EventPage::kSize);
  close(file_);
}

void SharedEvent::writeHandle(orIpcEventHandle* bytes) const {
  struct stat status{};
  fstat(file_, &status);
  Handle handle{EventPage::kMagic, ownProcess(), file_, status.st_dev, status.st_ino, ownStart()};
  memset(bytes, 0, sizeof(*bytes));
  memcpy(bytes->bytes, &handle, sizeof(handle));
}

uint64_t SharedEvent::last() const {
  return page_->last.load(std::memory_order_acquire);
}

orError_t SharedEvent::record(uint64_t* number) {
  for (;;) {
    if (pthread_mutex_lock(&page_->lock) == EOWNERDEAD) {
      pthread_mutex_consistent(&page_->lock); // `last` is stored last: nothing is half done
    }
    const uint64_t next = page_->last.load(std::memory_order_relaxed) + 1;
    EventSlot& slot = page_->slot(next);
    const bool is_free =
        next <= EventPage::kSlots || slot.state.load(std::memory_order_acquire) != kPending;
    if (is_free) {
      slot.state.store(kPending, std::memory_order_relaxed);
      slot.process.store(ownProcess(), std::memory_order_relaxed);
      slot.started.store(ownStart(), std::memory_order_relaxed);
      slot.number.store(next, std::memory_order_release);
      page_->last.store(next, std::memory_order_release);
    }
    pthread_mutex_unlock(&page_->lock);
    if (is_free) {
      *number = next;
      return orSuccess;
    }
    uint32_t process;
    if (wait(next - EventPage::kSlots, &process) == orErrorLaunchTimeout) {
      return fail(orErrorLaunchTimeout,
                  "orEventRecord: a record of process %u is not reached, which %d others wait for "
                  "(OPENREG_LAUNCH_TIMEOUT)",
                  process, static_cast<int>(EventPage::kSlots));
    }
    if (hasFlag(kExiting)) {
      return fail(orErrorNotSupported, "orEventRecord: too many records are pending during exit");
    }
  }
}

void SharedEvent::reached(uint64_t number) {
  page_->slot(number).state.store(kReached, std::memory_order_release);
  page_->wakes.fetch_add(1, std::memory_order_seq_cst);
  syscall(SYS_futex, &page_->wakes, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

orError_t SharedEvent::query(uint64_t number, uint32_t* process) const {
  if (number == 0) {
    return orSuccess;
  }
  EventSlot& slot = page_->slot(number);
  if (slot.number.load(std::memory_order_acquire) != number) {
    return orSuccess; // used again since
  }
  uint32_t state = slot.state.load(std::memory_order_acquire);
  *process = slot.process.load(std::memory_order_relaxed);
  if (state == kPending && *process != ownProcess() &&
      startOf(*process) != slot.started.load(std::memory_order_relaxed) &&
      slot.state.compare_exchange_strong(state, kDead)) {
    state = kDead;
  }
  return state == kReached ? orSuccess : state == kDead ? orErrorProcessDied : orErrorNotReady;
}

orError_t SharedEvent::wait(uint64_t number, uint32_t* process) const {
  // A worker's wait is a piece of work, which the watchdog watches.
  const bool is_limited = hasFlag(kWatched) && !Stream::ofThisThread();
  const uint64_t end = is_limited ? nowNanoseconds() + config().launch_timeout : UINT64_MAX;
  for (;;) {
    const uint32_t wakes = page_->wakes.load(std::memory_order_seq_cst);
    const orError_t error = query(number, process);
    if (error != orErrorNotReady) {
      return error;
    }
    if (hasFlag(kExiting) && (isExitingThread() || Stream::ofThisThread())) {
      return orSuccess; // as Stream::waitFor
    }
    if (is_limited && nowNanoseconds() >= end) {
      return orErrorLaunchTimeout;
    }
    timespec time = {0, kLookNanoseconds};
    syscall(SYS_futex, &page_->wakes, FUTEX_WAIT, wakes, &time, nullptr, 0);
  }
}

} // namespace openreg

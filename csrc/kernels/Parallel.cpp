#include "kernels/Parallel.h"

#include <ATen/Parallel.h>
#include <pthread.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <exception>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

// Note [Helpers of a worker]
// Each worker shares our own kernels with helpers, threads that look out for work
// for a moment before they sleep. ATen's OpenMP threads sleep at once where there
// are more of them than processors, as in any process in which the host thread
// has some too; and to wake one takes as long as to read a megabyte. So nobody
// waits for a helper that has not come. Each thread has a share of the work and
// takes it piece by piece, in the order of memory; who is done, or comes late, takes
// the last pieces of the others' shares.

namespace at::openreg {
namespace {

using Piece = void (*)(const void*, int64_t, int64_t);

constexpr int64_t kPiecesPerThread = 16;
constexpr int kMostShares = 64;
constexpr std::chrono::microseconds kLookout(50);
constexpr int kSpins = 4096; // some 100 us

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

struct Job {
  Piece piece = nullptr;
  const void* context = nullptr;
  int64_t size = 0;
  int64_t step = 1; // of a piece
  int64_t count = 0;
};

// Pieces [first, end) that nobody took, in one word.
class alignas(64) Share {
 public:
  void set(uint32_t first, uint32_t end) {
    range_.store(uint64_t{first} << 32 | end, std::memory_order_release);
  }

  // Who takes a piece sees the job that it is of.
  std::optional<uint32_t> take_first() {
    return take([](uint64_t range) { return range + (uint64_t{1} << 32); },
                [](uint64_t range) { return range >> 32; });
  }
  std::optional<uint32_t> take_last() {
    return take([](uint64_t range) { return range - 1; }, [](uint64_t range) { return range - 1; });
  }

 private:
  template <class Rest, class Index>
  std::optional<uint32_t> take(const Rest& rest, const Index& index) {
    uint64_t range = range_.load(std::memory_order_acquire);
    while (range >> 32 < static_cast<uint32_t>(range)) {
      if (range_.compare_exchange_weak(range, rest(range), std::memory_order_acq_rel,
                                       std::memory_order_acquire)) {
        return static_cast<uint32_t>(index(range));
      }
    }
    return std::nullopt;
  }

  std::atomic<uint64_t> range_ = 0;
};

class Team {
 public:
  Team() = default;
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  ~Team() {
    stopped_ = true;
    call();
    for (std::thread& helper : helpers_) {
      helper.join();
    }
  }

  void run(const Job& job, int helpers) {
    while (static_cast<int>(helpers_.size()) < helpers) {
      add_helper();
    }
    wanted_ = helpers;
    // Nobody reads the job once all its pieces are done, as those of the last one are.
    job_ = job;
    done_.store(0, std::memory_order_relaxed);
    const int shares = std::min(helpers + 1, kMostShares);
    for (int i = 0; i < shares; ++i) {
      shares_[i].set(job.count * i / shares, job.count * (i + 1) / shares);
    }
    call();
    work(0);
    wait_for(static_cast<uint32_t>(job.count));
    if (failed_.load(std::memory_order_relaxed)) {
      failed_ = false;
      std::rethrow_exception(std::exchange(error_, nullptr));
    }
  }

 private:
  void call() {
    calls_.fetch_add(1, std::memory_order_release);
    calls_.notify_all();
  }

  // Does pieces while there are some, those of the thread's own share first.
  void work(int thread) {
    const int shares = std::min(wanted_.load(std::memory_order_relaxed) + 1, kMostShares);
    for (int i = 0; i < shares; ++i) {
      Share& share = shares_[(thread + i) % shares];
      while (const auto index = i == 0 ? share.take_first() : share.take_last()) {
        run_piece(*index);
      }
    }
  }

  // Spins for as long as a piece takes. Then a helper lost its processor to another
  // thread: it goes on sooner on the one that is freed here.
  void wait_for(uint32_t count) {
    for (int tries = 0;; ++tries) {
      const uint32_t done = done_.load(std::memory_order_acquire);
      if (done == count) {
        return;
      }
      if (tries < kSpins) {
        relax();
      } else {
        done_.wait(done, std::memory_order_acquire);
      }
    }
  }

  void run_piece(int64_t index) {
    const auto count = static_cast<uint32_t>(job_.count);
    const int64_t begin = index * job_.step;
    try {
      job_.piece(job_.context, begin, std::min(begin + job_.step, job_.size));
    } catch (...) {
      if (!failed_.exchange(true)) {
        error_ = std::current_exception();
      }
    }
    if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == count) {
      done_.notify_one();
    }
  }

  void add_helper() {
    const int index = static_cast<int>(helpers_.size());
    const uint32_t seen = calls_.load(std::memory_order_relaxed);
    // Signals are blocked for it as for the worker.
    helpers_.emplace_back([this, index, seen] { help(index, seen); });
  }

  void help(int index, uint32_t seen) {
    pthread_setname_np(pthread_self(), "or-helper");
    for (;;) {
      seen = next_call(seen);
      if (stopped_) {
        return;
      }
      if (index < wanted_) {
        work(index + 1);
      }
    }
  }

  uint32_t next_call(uint32_t seen) {
    const auto end = std::chrono::steady_clock::now() + kLookout;
    for (int tries = 1; calls_.load(std::memory_order_acquire) == seen; ++tries) {
      relax();
      if (tries % 64 == 0 && std::chrono::steady_clock::now() > end) {
        calls_.wait(seen, std::memory_order_acquire);
      }
    }
    return calls_.load(std::memory_order_acquire);
  }

  std::vector<std::thread> helpers_;
  Job job_;
  std::exception_ptr error_;
  std::atomic<bool> failed_ = false;
  std::atomic<bool> stopped_ = false;
  std::atomic<int> wanted_ = 0; // of the helpers
  alignas(64) std::atomic<uint32_t> calls_ = 0;
  alignas(64) std::atomic<uint32_t> done_ = 0; // pieces
  std::array<Share, kMostShares> shares_;      // the worker's is the first
};

thread_local bool is_worker = false;

} // namespace

void use_helpers() {
  is_worker = true;
}

void run_in_pieces(int64_t size, int64_t grain, Piece piece, const void* context) {
  const int threads = at::in_parallel_region() ? 1 : at::get_num_threads();
  if (size <= grain || threads == 1) {
    if (size > 0) {
      piece(context, 0, size);
    }
    return;
  }
  if (!is_worker) {
    at::parallel_for(0, size, grain,
                     [&](int64_t begin, int64_t end) { piece(context, begin, end); });
    return;
  }
  const int64_t pieces = threads * kPiecesPerThread;
  const int64_t step = std::max(grain, (size + pieces - 1) / pieces);
  thread_local Team team;
  team.run({piece, context, size, step, (size + step - 1) / step}, threads - 1);
}

} // namespace at::openreg

// Workers that share thousands of small jobs with their helpers, for ThreadSanitizer
// (test_parallel.py): each element is computed once, and an exception comes through.

#include <ATen/Parallel.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <thread>
#include <vector>

#include "kernels/Parallel.h"

namespace {

struct Job {
  std::vector<int64_t> values;
  int64_t number;

  bool throws() const {
    return number % 101 == 7;
  }
};

void add_number(const void* context, int64_t begin, int64_t end) {
  Job& job = **static_cast<Job* const*>(context);
  for (int64_t i = begin; i < end; ++i) {
    job.values[i] += i + job.number;
  }
  if (job.throws() && begin == 0) {
    throw std::runtime_error("as asked for");
  }
}

void expect(bool condition, const char* what, int64_t number) {
  if (!condition) {
    std::printf("job %ld: %s\n", static_cast<long>(number), what);
    std::exit(1);
  }
}

void work(int64_t seed) {
  at::openreg::use_helpers();
  for (int64_t number = 0; number < 4000; ++number) {
    at::set_num_threads(2 + number % 3);
    Job job{std::vector<int64_t>(1 + (number * 7919 + seed) % 997), number};
    Job* const context = &job;
    bool thrown = false;
    try {
      at::openreg::run_in_pieces(static_cast<int64_t>(job.values.size()), 1, add_number, &context);
    } catch (const std::runtime_error&) {
      thrown = true;
    }
    expect(thrown == job.throws(), "an exception is lost, or came from nowhere", number);
    for (size_t i = 0; i < job.values.size(); ++i) {
      expect(job.values[i] == static_cast<int64_t>(i) + number, "not computed once", number);
    }
  }
}

} // namespace

int main() {
  std::thread first(work, 1);
  std::thread second(work, 5);
  first.join();
  second.join();
  std::puts("all computed");
}

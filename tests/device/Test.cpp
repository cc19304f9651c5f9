#include "Test.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sstream>

namespace test {
namespace {

std::vector<Case>& cases() {
  static std::vector<Case> list;
  return list;
}

const Case* find(const char* name) {
  for (const Case& test : cases()) {
    if (!strcmp(test.name, name)) {
      return &test;
    }
  }
  return nullptr;
}

void applyEnvironment(const char* settings) {
  std::istringstream stream(settings);
  for (std::string setting; stream >> setting;) {
    size_t equals = setting.find('=');
    setenv(setting.substr(0, equals).c_str(), setting.substr(equals + 1).c_str(), 1);
  }
}

void runCase(const Case& test) {
  // Small devices, so that memory can be used up quickly.
  setenv("OPENREG_DEVICE_MEMORY", "64MiB", 0);
  applyEnvironment(test.environment);
  test.function();
}

} // namespace

bool add(const Case& test) {
  cases().push_back(test);
  return true;
}

void failed(const char* file, int line, const char* expression, const std::string& detail) {
  fprintf(stderr, "%s:%d: failed: %s\n  %s\n", file, line, expression, detail.c_str());
  _exit(1);
}

std::string describe(orError_t error) {
  return std::string("got ") + orGetErrorName(error) + ": " + orGetLastErrorMessage();
}

Outcome runChild(const char* name, const char* environment) {
  int pipe_ends[2];
  if (pipe(pipe_ends)) {
    abort();
  }
  pid_t pid = fork();
  if (pid == 0) {
    dup2(pipe_ends[1], STDERR_FILENO);
    close(pipe_ends[0]);
    close(pipe_ends[1]);
    // The sanitizers' own handlers would change how a fault ends.
    setenv("ASAN_OPTIONS", "handle_segv=0:handle_sigbus=0:detect_leaks=0", 1);
    setenv("TSAN_OPTIONS", "handle_segv=0:handle_sigbus=0", 1);
    applyEnvironment(environment);
    execl("/proc/self/exe", "device_tests", name, nullptr);
    _exit(127);
  }
  close(pipe_ends[1]);
  Outcome outcome;
  char buffer[4096];
  for (ssize_t count; (count = read(pipe_ends[0], buffer, sizeof(buffer))) > 0;) {
    outcome.errors.append(buffer, count);
  }
  close(pipe_ends[0]);
  waitpid(pid, &outcome.status, 0);
  return outcome;
}

} // namespace test

int main(int argc, char** argv) {
  if (argc == 2 && !strcmp(argv[1], "--list")) {
    for (const test::Case& test : test::cases()) {
      if (!test.is_child) {
        puts(test.name);
      }
    }
    return 0;
  }
  if (argc == 2) {
    const test::Case* test = test::find(argv[1]);
    if (!test) {
      fprintf(stderr, "no such test: %s\n", argv[1]);
      return 2;
    }
    test::runCase(*test);
    return 0;
  }
  int failures = 0;
  for (const test::Case& test : test::cases()) {
    bool wanted = argc == 1 && !test.is_child;
    for (int i = 1; i < argc; ++i) {
      wanted |= !strcmp(argv[i], test.name);
    }
    if (!wanted) {
      continue;
    }
    pid_t pid = fork();
    if (pid == 0) {
      execl("/proc/self/exe", "device_tests", test.name, nullptr);
      _exit(127);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    printf("%s %s\n", status == 0 ? "ok    " : "FAILED", test.name);
    fflush(stdout);
    failures += status != 0;
  }
  return failures != 0;
}

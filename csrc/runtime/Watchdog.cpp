#include "runtime/Watchdog.h"

#include <ATen/record_function.h>
#include <pthread.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>
#include <vector>

#include "device/openreg_watchdog.h"

namespace c10::openreg {
namespace {

constexpr std::string_view kEngine = "autograd::engine::";

// Set once, before the first launch.
GatherLaunchStack gather_stack = nullptr;

// What the thread runs, outermost first, and where the outermost operator was
// called: a node of the backward pass is none, and may be Python that calls some.
struct Running {
  struct Frame {
    std::string name;
    bool is_operator;
  };
  std::vector<Frame> frames;
  size_t operators = 0;
  std::shared_ptr<LaunchStack> stack;

  void push(const char* name, bool is_operator) {
    if (is_operator && operators++ == 0) {
      stack = gather_stack();
    }
    frames.push_back({name, is_operator});
  }
  void pop() {
    const bool is_operator = frames.back().is_operator;
    frames.pop_back();
    if (is_operator && --operators == 0) {
      stack.reset();
    }
  }
};

thread_local Running running;

struct Origin {
  std::string operators;
  std::shared_ptr<LaunchStack> stack;
  std::array<char, 16> thread{};

  std::string describe() const {
    std::string text;
    if (!operators.empty()) {
      text += "  operator: " + operators + "\n";
    }
    if (stack == nullptr) {
      text += "  launched by thread " + std::string(thread.data()) + ", which runs no Python\n";
    } else {
      text += "  launched at (most recent call last):\n" + stack->describe();
    }
    return text;
  }
};

const orLaunchOriginType origin_type = {
    .gather = []() -> void* {
      auto* origin = new Origin();
      origin->stack = running.operators == 0 ? gather_stack() : running.stack;
      for (const Running::Frame& frame : running.frames) {
        origin->operators += (origin->operators.empty() ? "" : " > ") + frame.name;
      }
      pthread_getname_np(pthread_self(), origin->thread.data(), origin->thread.size());
      return origin;
    },
    .describe =
        [](const void* origin, char* text, size_t capacity) {
          const std::string lines = static_cast<const Origin*>(origin)->describe();
          const size_t size = std::min(capacity, lines.size());
          std::memcpy(text, lines.data(), size);
          return size;
        },
    .release = [](void* origin) { delete static_cast<Origin*>(origin); }};

} // namespace

void install_launch_origin(GatherLaunchStack gather) {
  uint64_t limit = 0;
  if (orGetLaunchTimeout(&limit) != orSuccess) {
    orGetLastError(); // a bad value is for the first use of the device to report
  }
  if (limit == 0 || gather_stack != nullptr) {
    return;
  }
  gather_stack = gather;
  at::addGlobalCallback(
      at::RecordFunctionCallback(
          [](const at::RecordFunction& function) -> std::unique_ptr<at::ObserverContext> {
            // The engine wraps each node in a range of its own.
            const std::string_view name = function.name();
            const bool is_node = function.scope() == at::RecordScope::BACKWARD_FUNCTION ||
                                 name.substr(0, kEngine.size()) == kEngine;
            running.push(function.name(), !is_node);
            return nullptr;
          },
          [](const at::RecordFunction&, at::ObserverContext*) { running.pop(); })
          .scopes({at::RecordScope::FUNCTION, at::RecordScope::BACKWARD_FUNCTION}));
  OPENREG_CHECK(orSetLaunchOrigin(&origin_type));
}

LaunchScope::LaunchScope(const char* name) : active_(gather_stack != nullptr) {
  if (C10_UNLIKELY(active_)) {
    running.push(name, /*is_operator=*/true);
  }
}

LaunchScope::~LaunchScope() {
  if (C10_UNLIKELY(active_)) {
    running.pop();
  }
}

} // namespace c10::openreg

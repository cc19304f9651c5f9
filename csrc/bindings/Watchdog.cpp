// The Python stacks of launches, for the watchdog's reports.

#include <Python.h>

#include <fstream>
#include <mutex>
#include <utility>
#include <vector>

#include "bindings/Module.h"
#include "runtime/Watchdog.h"

namespace torch_openreg {
namespace {

constexpr size_t kMaxFrames = 64;

// Code objects whose references ended on threads without the GIL.
struct Released {
  std::mutex mutex;
  std::vector<PyCodeObject*> codes;
};

Released& released() {
  static auto* instance = new Released();
  return *instance;
}

void drop_released() {
  std::vector<PyCodeObject*> codes;
  {
    const std::lock_guard<std::mutex> guard(released().mutex);
    codes.swap(released().codes);
  }
  for (PyCodeObject* code : codes) {
    Py_DECREF(code);
  }
}

std::string trimmed(const std::string& line) {
  const size_t begin = line.find_first_not_of(" \t");
  return begin == std::string::npos ? "" : line.substr(begin, line.find_last_not_of(" \t\r") + 1);
}

// The source's line, empty if it cannot be read.
std::string source_line(const char* file, int number) {
  std::ifstream source(file);
  std::string line;
  for (int i = 0; i < number; ++i) {
    if (!std::getline(source, line)) {
      return "";
    }
  }
  return trimmed(line);
}

class PythonStack final : public c10::openreg::LaunchStack {
 public:
  // With the GIL.
  explicit PythonStack(PyThreadState* thread) {
    PyFrameObject* frame = PyThreadState_GetFrame(thread);
    while (frame != nullptr && frames_.size() < kMaxFrames) {
      PyCodeObject* code = PyFrame_GetCode(frame);
      // What these return belongs to the code, which is ours.
      const char* file = PyUnicode_AsUTF8(code->co_filename);
      const char* name = PyUnicode_AsUTF8(code->co_name);
      if (file == nullptr || name == nullptr) {
        PyErr_Clear();
      }
      frames_.push_back({code, file ? file : "?", name ? name : "?", PyFrame_GetLineNumber(frame)});
      Py_SETREF(frame, PyFrame_GetBack(frame));
    }
    is_cut_ = frame != nullptr;
    Py_XDECREF(frame);
  }

  ~PythonStack() override {
    const std::lock_guard<std::mutex> guard(released().mutex);
    for (const Frame& frame : frames_) {
      released().codes.push_back(frame.code);
    }
  }

  bool empty() const {
    return frames_.empty();
  }

  std::string describe() const override {
    std::string text = is_cut_ ? "    ...\n" : "";
    for (auto frame = frames_.rbegin(); frame != frames_.rend(); ++frame) {
      text += "    File \"" + std::string(frame->file) + "\", line " + std::to_string(frame->line) +
              ", in " + frame->name + "\n";
      const std::string source = source_line(frame->file, frame->line);
      text += source.empty() ? "" : "      " + source + "\n";
    }
    return text;
  }

 private:
  struct Frame {
    PyCodeObject* code;
    const char* file;
    const char* name;
    int line;
  };
  std::vector<Frame> frames_; // innermost first
  bool is_cut_ = false;
};

bool is_finalizing() {
#if PY_VERSION_HEX >= 0x030D0000
  return Py_IsFinalizing();
#else
  return _Py_IsFinalizing();
#endif
}

std::shared_ptr<c10::openreg::LaunchStack> gather() {
  if (!Py_IsInitialized() || is_finalizing()) {
    return nullptr;
  }
  PyThreadState* thread = PyGILState_GetThisThreadState();
  if (thread == nullptr) {
    return nullptr;
  }
  const py::gil_scoped_acquire gil;
  drop_released();
  auto stack = std::make_shared<PythonStack>(thread);
  return stack->empty() ? nullptr : std::move(stack);
}

} // namespace

void bind_watchdog(py::module_&) {
  c10::openreg::install_launch_origin(&gather);
}

} // namespace torch_openreg

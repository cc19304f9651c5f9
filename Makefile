# Every task of the project; `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3.11
VENV ?= .venv
# The torch to build against and run with; a CPU build is enough.
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
SOURCES := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.py' -o -name '*.yaml') \
           CMakeLists.txt csrc/device/CMakeLists.txt setup.py pyproject.toml
PROMPT ?= What is the capital of France?

.PHONY: help build demo test bench debug asan tsan lint format clean

help:  ## list the tasks
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: build $(VENV)/.example  ## answer PROMPT with a language model on the device, compared with the CPU
	$(BIN)/python examples/paged_llm --compare cpu --prompt "$(PROMPT)"

test: build $(VENV)/.example  ## run the test suite
	$(BIN)/python -m pytest tests

build: $(VENV)/.built  ## make the virtual environment and the native libraries

bench: build $(VENV)/.example  ## measure against plain CPU PyTorch
	$(BIN)/python -m benchmarks

$(VENV)/.tools: requirements-dev.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet "$(TORCH)"
	$(PIP) install --quiet -r requirements-dev.txt
	touch $@

$(VENV)/.built: $(VENV)/.tools $(SOURCES)
	$(PIP) install --quiet --no-build-isolation --no-deps -e .
	touch $@

$(VENV)/.example: $(VENV)/.tools examples/paged_llm/requirements.txt
	$(PIP) install --quiet --no-deps -r examples/paged_llm/requirements.txt
	touch $@

debug: $(VENV)/.tools  ## build with assertions and debug information
	OPENREG_BUILD_TYPE=Debug $(PIP) install --quiet --no-build-isolation --no-deps -e .
	touch $(VENV)/.built

asan: $(VENV)/.tools  ## test the device library with AddressSanitizer
	$(BIN)/python -m pytest tests/device -k asan

tsan: $(VENV)/.tools  ## test the device library with ThreadSanitizer
	$(BIN)/python -m pytest tests/device -k tsan

lint: $(VENV)/.tools  ## check formatting and style
	$(BIN)/ruff check .
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files '*.cpp' '*.h')

format: $(VENV)/.tools  ## format C++ and sort imports
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $$(git ls-files '*.cpp' '*.h')

clean:  ## remove what was built
	rm -rf build torch_openreg/lib torch_openreg/*.so torch_openreg/_build_info.py $(VENV)/.built

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
PORT ?= 8000

.PHONY: help build demo serve demo-engine test test-vllm soak bench debug asan tsan conformance lint format clean

help:  ## list the tasks
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# What vLLM would otherwise try: to report its use, and to look for models on a hub.
VLLM_ENVIRONMENT := VLLM_NO_USAGE_STATS=1 HF_HUB_OFFLINE=1

demo: build $(VENV)/.vllm  ## answer PROMPT with vLLM on the device, compared with transformers on the CPU
	$(VLLM_ENVIRONMENT) $(BIN)/python examples/vllm_demo.py --compare cpu --prompt "$(PROMPT)"

serve: build $(VENV)/.vllm  ## serve SmolLM2 with vLLM on the device, OpenAI's interface on 127.0.0.1:PORT
	model=$$($(BIN)/python examples/smollm2.py) && exec env $(VLLM_ENVIRONMENT) $(BIN)/vllm serve "$$model" \
	    --served-model-name SmolLM2-135M-Instruct --host 127.0.0.1 --port $(PORT) --dtype float32 \
	    --max-model-len 2048 --kv-cache-memory-bytes 1G

demo-engine: build $(VENV)/.example  ## the same with the small engine of examples/paged_llm, without vLLM
	$(BIN)/python examples/paged_llm --compare cpu --prompt "$(PROMPT)"

test: build $(VENV)/.vllm-tests  ## run the test suite
	$(BIN)/python -m pytest tests --ignore tests/vllm
	$(BIN)/python -m pytest tests/vllm

test-vllm: build $(VENV)/.vllm-tests  ## its last part alone: the vLLM plugin, with real vLLM
	$(BIN)/python -m pytest tests/vllm

soak: build $(VENV)/.vllm-tests  ## ten minutes of load on a vLLM server with too little cache
	SOAK_SECONDS=600 $(BIN)/python -m pytest tests/vllm/test_soak.py

conformance: build  ## compare every operator with the CPU; writes build/conformance and docs/conformance.md
	$(BIN)/python -m torch_openreg.testing ops --jobs $$(nproc) --output build/conformance \
	    --markdown docs/conformance.md

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

$(VENV)/.vllm: $(VENV)/.tools $(VENV)/.example requirements-vllm.txt
	VLLM_TARGET_DEVICE=empty VLLM_VERSION_OVERRIDE=0.32.0 PATH="$(abspath $(BIN)):$$PATH" \
	    $(PIP) install --quiet --no-deps --no-build-isolation -r requirements-vllm.txt
	touch $@

$(VENV)/.vllm-tests: $(VENV)/.vllm tests/vllm/requirements.txt
	$(PIP) install --quiet --no-deps -r tests/vllm/requirements.txt
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

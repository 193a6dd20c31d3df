VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

# Tests use tiny tensors: more threads per process only make the workers wait for each other.
TEST_THREADS ?= 1
TEST_WORKERS ?= auto
TEST_MAX_WORKERS ?= 4
PYTEST = OMP_NUM_THREADS=$(TEST_THREADS) $(BIN)/python -m pytest -n $(TEST_WORKERS) --maxprocesses $(TEST_MAX_WORKERS)

.DEFAULT_GOAL := help
.PHONY: help install demo test test-fast quality style benchmark

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.installed  ## Make the virtual environment and install the package and what its tests need

# Stamp files: a second call has nothing to do until pyproject.toml changes.
$(VENV)/.installed: pyproject.toml
	@echo "==> Installing haba_hf and its test tools into $(VENV)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -e '.[test]'
	@touch $@

$(VENV)/.installed-quality: $(VENV)/.installed
	@echo "==> Installing the quality tools into $(VENV)"
	$(BIN)/python -m pip install -e '.[quality]'
	@touch $@

$(VENV)/.installed-package: pyproject.toml
	@echo "==> Installing haba_hf into $(VENV)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -e .
	@touch $@

demo: $(VENV)/.installed-package  ## Distil handwritten digits, save, reload, train on the result
	@echo "==> Running the demo: training/demo.py"
	$(BIN)/python training/demo.py

test: $(VENV)/.installed  ## Run all tests
	@echo "==> Running all tests, $(TEST_THREADS) thread(s) in each process"
	$(PYTEST)

test-fast: $(VENV)/.installed  ## Run the tests that take no more than seconds
	@echo "==> Running the tests that are not marked slow, $(TEST_THREADS) thread(s) in each process"
	$(PYTEST) -m "not slow"

quality: $(VENV)/.installed-quality  ## Check lint, format, import floors and types; change nothing
	@echo "==> Checking lint and format (ruff)"
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --no-cache --check .
	@echo "==> Checking the import floors (import-linter)"
	$(BIN)/lint-imports
	@echo "==> Checking types (mypy)"
	$(BIN)/mypy

style: $(VENV)/.installed-quality  ## Fix lint and format in place
	@echo "==> Fixing lint and format (ruff)"
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: $(VENV)/.installed  ## Measure ours against a naive implementation, time and memory
	@echo "==> Running the benchmark: training/benchmark"
	$(BIN)/python training/benchmark

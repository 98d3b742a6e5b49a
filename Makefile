# The targets that people and CI use; each is enough on its own on a fresh machine with python3 >= 3.11.

# The first of these that is 3.11, 3.12 or 3.13.
FIND_PYTHON = for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && exit; \
	done; echo python3
ifndef PYTHON
PYTHON := $(shell $(FIND_PYTHON))
endif
VENV ?= .venv
VENV_VLLM ?= .venv-vllm
ARGS ?=

BIN = $(VENV)/bin
# The check for changes costs milliseconds, so every target asks for it.
INSTALL = $(PYTHON) tools/install.py $(VENV) test

.PHONY: help install run test fuzz check format bench test-vllm lock clean

help:
	@echo "make run         install, then run the platform in the foreground (ARGS='--port 9000')"
	@echo "make test        every test that needs no GPU (ARGS='-k name')"
	@echo "make fuzz        the property tests once more, with many new examples"
	@echo "make check       lint, format, types, architecture"
	@echo "make bench       every benchmark, each printing a ratio (ARGS=name for one)"
	@echo "make test-vllm   the tests against a real vLLM on the CPU"
	@echo "make install     the virtual environment alone"

install:
	@$(INSTALL)

run: install
	@exec $(BIN)/logos up $(ARGS)

test: install
	@$(BIN)/python -m pytest -m "not vllm" $(ARGS)

# With examples drawn anew each time; a failure ends with the example, to be kept as a test.
fuzz: install
	@$(BIN)/python -m pytest -m "hypothesis and not vllm" --hypothesis-profile=fuzz --timeout=3600 $(ARGS)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install
	@$(BIN)/python -m benchmarks $(ARGS)

test-vllm: install
	@$(BIN)/python tools/run_vllm_tests.py $(VENV_VLLM) $(ARGS)

# Pins what is newest today for every supported Python; the file names no index host.
lock: install
	@$(BIN)/python tools/lock.py

clean:
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info

# Two commands for a fresh machine with Python 3.11+, make and a C compiler:
#   make demo   sets up everything and fine-tunes the built-in model
#   make test   sets up everything and passes the tests
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# The pinned environment. `make CONSTRAINTS= demo` takes what is newest, or what is installed.
CONSTRAINTS ?= constraints.txt
PINS := $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo install install-dev test check lint types contracts unit format snapshots \
	fuzz campaign faults benchmarks gpu-check clean

help: ## list what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

demo: install ## fine-tune the built-in model, from list to proof, with no network
	@$(BIN)/llamaforge demo --yes

install: $(VENV)/.installed ## make .venv with the pinned packages

install-dev: $(VENV)/.installed-dev

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else \
		"LlamaForge needs Python 3.11 or newer; name one with: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)

# llama-cpp-python is compiled here, which takes some minutes; pip keeps the wheel for next time.
$(VENV)/.installed: pyproject.toml $(CONSTRAINTS) | $(VENV)/bin/python
	@echo "Installing packages; the first time llama.cpp is compiled, which takes some minutes."
	$(PIP) install --quiet $(PINS) --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(CONSTRAINTS) | $(VENV)/.installed
	$(PIP) install --quiet $(PINS) --editable '.[dev]'
	@touch $@

test: check unit ## lint, types, contracts and tests

check: lint types contracts

lint: install-dev ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install-dev ## mypy, strict
	$(BIN)/mypy

contracts: install-dev ## which room may import which
	$(BIN)/lint-imports

unit: install-dev ## pytest
	OMP_WAIT_POLICY=passive $(BIN)/pytest --numprocesses $(WORKERS) --dist worksteal -m 'not campaign'

fuzz: install-dev ## stores that are damaged at random, for LLAMAFORGE_FUZZ_SECONDS seconds
	$(BIN)/python -m tools.fuzz --seconds $${LLAMAFORGE_FUZZ_SECONDS:-60}

campaign: install-dev ## the slow tests: kill the worker at random, LLAMAFORGE_TRIALS times
	$(BIN)/pytest -m campaign

faults: install-dev ## what goes wrong on purpose: more than 200 trials, a table (FAULTS="--row 5")
	$(BIN)/python -m tools.faults $(FAULTS)

snapshots: install-dev ## accept how the screens look now
	$(BIN)/pytest tests/tui --snapshot-update

benchmarks: install-dev ## ours against the named peers, as ratios
	$(PIP) install --quiet $(PINS) --editable '.[benchmarks]'
	for script in header store_list read_rows check_rows load lora_step merged_export \
		served_fidelity; do \
		$(BIN)/python benchmarks/$$script.py; done

gpu-check: install ## on a CUDA machine: is the engine right there, how fast, how much memory
	@$(BIN)/python -m benchmarks.gpu_check

format: install-dev ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the environment and what tools left behind
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

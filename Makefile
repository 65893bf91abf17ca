# Every target does its own set-up: `make test` on a bare machine needs Python 3.11+ and make.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
# A virtual environment that was made by half must not pass for one.
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
# Without its cache Python compiles every module in every process of the tests again.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help install integration-check test test-all lint typecheck bench up down env clean

STACK ?= embedded
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; exit; }; \
	done; echo python3.11-or-newer-is-missing)
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Most tests wait for a server: four at a time keep two processors busy. Each worker begins with a
# part of the files, and takes tests from another's when it has none left. A stack that is not the
# run's own is used by one at a time. A worker that dies ends the run, with the name of its test:
# with another in its place, pytest-xdist would wait for ever.
WORKERS := $(if $(filter embedded,$(STACK)),-n 4 --dist worksteal --max-worker-restart 0)
STACK_TOOL := STACK=$(STACK) $(BIN)/python -m utils.local_stack

##@ Targets
help: ## Show this help
	@awk 'BEGIN {FS = ":.*##"} /^##@/ {printf "%s\n", substr($$0, 5)} \
		/^[a-zA-Z-]+:.*##/ {printf "  %-18s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/installed-dev ## Install everything into .venv, development tools included

integration-check: $(VENV)/installed-local ## Prove all three clients on real servers (STACK=embedded|docker|external)
	@$(STACK_TOOL) run -- $(BIN)/python -m clients check

test: $(VENV)/installed-dev ## Run the tests, without the long ones; ARGS="-k name" picks some
	@STACK=$(STACK) $(BIN)/python -m pytest $(WORKERS) -m 'not slow and not project' $(ARGS)

test-all: $(VENV)/installed-dev ## Run all tests: the long ones, and those of the project itself
	@STACK=$(STACK) $(BIN)/python -m pytest $(WORKERS) $(ARGS)

lint: $(VENV)/installed-dev ## Check style and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

typecheck: $(VENV)/installed-dev ## Check types, strictly
	@$(BIN)/mypy

bench: $(VENV)/installed-dev ## Measure, and print one table of ratios
	@$(BIN)/python -m pytest -q -o python_files='bench_*.py' -m bench tests/benchmarks $(ARGS)

up: $(VENV)/installed-local ## Start the development stack and leave it running
	@$(STACK_TOOL) up

down: $(VENV)/installed-local ## Stop the development stack
	@$(STACK_TOOL) down

env: $(VENV)/installed-local ## Print the exports of the running stack, for the shell to eval
	@$(STACK_TOOL) env

clean: ## Remove the virtual environment and all caches
	@if [ -x $(BIN)/python ] && [ -d .stack ]; then $(STACK_TOOL) down; fi
	@rm -rf $(VENV) .stack .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks build dist bench.json bench.md
	@find clients utils tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -m venv $(VENV)

$(VENV)/installed-local: pyproject.toml | $(BIN)/python
	@$(PIP_INSTALL) -e '.[local]'
	@touch $@

$(VENV)/installed-dev: pyproject.toml | $(BIN)/python
	@$(PIP_INSTALL) -e '.[local,dagster,dev]'
	@touch $@ $(VENV)/installed-local

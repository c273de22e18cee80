# Everything below needs only GNU make and Python >= 3.11 with venv and pip; the rest comes from requirements.lock.

PYTHON  ?= python3
WORKERS ?= auto

VENV  := .venv
BIN   := $(VENV)/bin
PIP   := $(BIN)/python -m pip --disable-pip-version-check
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.DELETE_ON_ERROR:
.PHONY: help install demo test test-kafka kafka check check-static fmt soak bench lock build clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## Install ctxlog and its tools in .venv (the other targets do it when needed)

demo: $(STAMP) ## See ctxlog at work
	@$(BIN)/ctxlog demo

test: $(STAMP) ## Run the whole test suite (all but soak)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

test-kafka: $(STAMP) ## Run the tests that need a real Kafka broker (Java 17 and Maven, or Docker), and no others
	@CTXLOG_REQUIRE_KAFKA=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "kafka and not soak"

kafka: $(STAMP) ## Start a Kafka broker to try things with, until Ctrl-C
	@$(BIN)/python tests/brokers.py try

check: check-static ## Before each commit: format, lint, types, import rules, unit tests
	@$(BIN)/python -m pytest tests/unit -q -x

check-static: $(STAMP) ## Format, lint, types and import rules, without running tests
	@echo "format"  && $(BIN)/ruff format --check --quiet --diff .
	@echo "lint"    && $(BIN)/ruff check --quiet .
	@echo "types"   && $(BIN)/mypy --no-error-summary
	@echo "imports" && { out=$$($(BIN)/lint-imports 2>&1) || { echo "$$out"; exit 1; }; }

fmt: $(STAMP) ## Format the code and repair what the linter can
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format .

soak: $(STAMP) ## Run the long, seeded tests (minutes)
	@$(BIN)/python -m pytest -n $(WORKERS) -m soak --timeout 3600

bench: $(STAMP) ## Run each benchmark; results go to benchmarks/results/
	@for file in $(sort $(wildcard benchmarks/bench_*.py)); do \
		echo "== $$file"; $(BIN)/python "$$file" || exit 1; \
	done

lock: $(STAMP) ## Renew requirements.lock from pyproject.toml (UPGRADE=1 takes newer versions)
	@[ -x $(BIN)/uv ] || $(PIP) install --quiet uv==0.13.9
	@$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
		$(if $(UPGRADE),--upgrade) --quiet --output-file requirements.lock
	@echo "requirements.lock is up to date; 'make install' installs it"

build: $(STAMP) ## Build the sdist and the wheel in dist/
	@rm -rf dist
	@$(BIN)/hatchling build -d dist

clean: ## Remove .venv, caches and everything built
	@rm -rf $(VENV) dist build .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache
	@find . -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# --- setup -----------------------------------------------------------------------------------------------------------

# A .venv made by other means is used as it is. --no-deps and --no-build-isolation: nothing comes from outside the lock.
$(STAMP): requirements.lock pyproject.toml | $(BIN)/python
	@$(call require-python,$(BIN)/python,'make clean' removes this .venv)
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
	@echo "Installing the locked dependencies in $(VENV) ..."
	@$(PIP) install --quiet --require-hashes -r requirements.lock
	@$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(BIN)/python:
	@$(call require-python,$(PYTHON),name another: make PYTHON=/path/to/python3.12)
	@$(PYTHON) -m venv $(VENV)

define require-python
command -v "$(1)" >/dev/null 2>&1 || { echo "ctxlog needs Python 3.11 or newer, and '$(1)' was not found; $(2)." >&2; exit 1; }; \
"$(1)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "ctxlog needs Python 3.11 or newer, and '$(1)' is $$("$(1)" -V 2>&1); $(2)." >&2; exit 1; }
endef

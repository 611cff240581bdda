# Needs Python 3.11 or later and make. `make PYTHON=python3.12 demo` chooses another Python.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Test files run side by side: one a core, and one more, since many wait for servers.
AT_ONCE ?= $(shell $(PYTHON) -c 'import os; print(len(os.sched_getaffinity(0)) + 1)')
SIDE_BY_SIDE = $(BIN)/python -m pytest -n $(AT_ONCE) --dist loadfile

# Prefect neither reports its use, nor touches the user's own Prefect settings.
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export PREFECT_HOME ?= $(CURDIR)/build/prefect
# Material for MkDocs announces its successor at every build.
export NO_MKDOCS_2_WARNING := 1

# Tests whose results depend on the arithmetic of the processor.
ARITHMETIC := $(addprefix tests/test_,ties.py deep_taylor.py gradient_methods.py engine.py)

.PHONY: help setup demo test test-processors test-slow test-browser lint bench docs clean

help:
	@echo "make setup   install everything into $(VENV), at the versions in constraints.txt"
	@echo "make demo    make a small data set, train on it, explain it, print the tables"
	@echo "make test    every test that needs neither a GPU, nor a browser, nor minutes"
	@echo "make test-processors   what rounding could change, as older processors compute it"
	@echo "make test-slow   what takes minutes: servers, kills, whole runs"
	@echo "make test-browser   the report and the exported clips in headless Chromium"
	@echo "make lint    ruff and mypy"
	@echo "make bench   measure times and sizes"
	@echo "make docs    build the pages of docs/ and the reference as a site, in build/site"
	@echo "make clean   remove what these commands made"

setup: $(STAMP)

$(STAMP): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$$($(PYTHON) --version) is too old: give PYTHON=python3.11 or later"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): 2.7 GB, some minutes."
	$(BIN)/python -m pip install --quiet --constraint constraints.txt setuptools
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[test]'
	@touch $@

demo: setup
	@mkdir -p "$(PREFECT_HOME)"
	$(BIN)/selrel demo

test: setup
	@mkdir -p "$(PREFECT_HOME)"
	$(SIDE_BY_SIDE) -m 'not slow and not gpu and not browser'

# What an older processor would run: instructions up to these, in torch and in oneDNN.
test-processors: setup
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 $(SIDE_BY_SIDE) $(ARITHMETIC) -m 'not slow'
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(SIDE_BY_SIDE) $(ARITHMETIC) -m 'not slow'

test-slow: setup
	@mkdir -p "$(PREFECT_HOME)"
	$(SIDE_BY_SIDE) -m 'slow and not gpu and not browser'

test-browser: setup
	@command -v chromium || command -v chromium-browser || command -v google-chrome \
		|| { test "$$(id -u)" = 0 && command -v apt-get && apt-get update -q && apt-get install -y -q chromium; } \
		|| { echo "There is no Chromium, and it can't be installed here: as root, apt-get install chromium"; exit 1; }
	$(BIN)/python -m pytest -m browser

lint: setup
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy

bench: setup
	$(BIN)/python -m tests.benchmarks.explain
	$(BIN)/python -m tests.benchmarks.conservation
	$(BIN)/python -m tests.benchmarks.camera
	$(BIN)/python -m tests.benchmarks.storage
	$(BIN)/python -m tests.benchmarks.scale

docs: setup
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[docs]'
	$(BIN)/python -m mkdocs build
	@echo "Open build/site/index.html; its search works where it is served: $(BIN)/python -m http.server -d build/site"

clean:
	rm -rf $(VENV) build demo selrel.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

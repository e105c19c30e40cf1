# Each target makes its own virtual environment when there is none; all that is needed is python3 >= 3.11 and make.
#
#   make demo     a real cross-validated study on packaged data, ends with runs/demo/report.html
#   make test     lint, types, and the fast tests
#   make parity   the checks that need torch or torchmil
#   make ray      executors on a real Ray cluster of two nodes, one of which is killed; installs ray
#   make study-classic  the table of Ilse et al. (2018) on five classic sets, with docs/optimism.md; resumable
#   make algorithmic  every model on the algorithmic tests: docs/algorithmic.md and its JSON, 13 minutes of one core
#   make bench    simulations behind docs/statistics.md, writes JSON under benchmarks/results

PYTHON ?= python3
VENV   ?= .venv
# a version with a CPU build; only parity and benchmarks use it
TORCH  ?= torch==2.13.0
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip --disable-pip-version-check --quiet

.PHONY: demo test lint parity ray algorithmic bench study-classic clean
.DEFAULT_GOAL := test

$(VENV)/.core: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "milkit needs Python 3.11 or newer, but $(PYTHON) is `$(PYTHON) --version 2>&1`; name one: make PYTHON=python3.12"; exit 2; }
	@test -x $(BIN)/python || { echo "making a virtual environment in $(VENV) ..."; $(PYTHON) -m venv $(VENV); }
	@echo "installing milkit into $(VENV) (about 1.4 GB) ..."
	@$(PIP) install -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	@$(PIP) install -e '.[dev]'
	@touch $@

$(VENV)/.parity: $(VENV)/.dev
	@$(PIP) install '$(TORCH)'
	@$(PIP) install -e '.[bench]'
	@touch $@

$(VENV)/.ray: $(VENV)/.dev
	@$(PIP) install -e '.[ray]'
	@touch $@

demo: $(VENV)/.core
	@$(BIN)/milkit demo --force

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest -n 2 -m "not parity and not gpu and not ray"

parity: $(VENV)/.parity
	$(BIN)/pytest -m parity

ray: $(VENV)/.ray
	$(BIN)/pytest -m ray

algorithmic: $(VENV)/.dev
	$(BIN)/python -m experiments.raff_holt2023

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.coverage --out benchmarks/results/coverage.json
	$(BIN)/python -m benchmarks.logrank_null --studies 4000 --out benchmarks/results/logrank_null.json
	$(BIN)/python -m benchmarks.comparison_null --out benchmarks/results/comparison_null.json

study-classic: $(VENV)/.dev
	$(BIN)/python -m experiments.study_classic --out runs/ilse2018
	$(BIN)/python -m experiments.classic_table runs/ilse2018

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache

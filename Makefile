# Each target makes its own virtual environment when there is none; all that is needed is python3 >= 3.11 and make.
#
#   make demo     a real cross-validated study on packaged data, ends with runs/demo/report.html
#   make test     lint, types, and the fast tests
#   make test-slow    the tests that compile or train for longer
#   make parity   the checks that need torch or torchmil
#   make ray      studies and embedding on a real Ray cluster of two nodes, one of which is killed; installs ray
#   make study-classic  the table of Ilse et al. (2018) on five classic sets, with docs/optimism.md; resumable
#   make study-segmentation  glands and epithelium from labels of crops and images (needs GlaS and the colon images)
#   make matrix   every model by every test: docs/matrix.md and its JSON; hours, resumable
#   make study-pixels  digits and nuclei end to end, and which relevance finds them; resumable
#   make algorithmic  every model on the algorithmic tests: docs/algorithmic.md and its JSON, 13 minutes of one core
#   make bench    speed against PyTorch, torchmil, tiffslide and OpenSlide on this machine, under 30 minutes; JSON under benchmarks/results
#   make gpu      tests and benchmarks on a GPU, under 10 minutes (make gpu BIN=/path/to/bin for a python that is there)
#   make bench-statistics  simulations behind docs/statistics.md and others; JSON under benchmarks/results

PYTHON ?= python3
VENV   ?= .venv
# a version with a CPU build; only parity and benchmarks use it
TORCH  ?= torch==2.13.0
# what writes soma's files, without the gigabytes that it declares
SOMA   ?= slide2vec==7.1.4 hs2p==6.1.0 soma-pathology==2.2.0 omegaconf antlr4-python3-runtime==4.9.3 opencv-python-headless
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip --disable-pip-version-check --quiet

.PHONY: demo test test-slow lint parity ray algorithmic matrix study-pixels bench gpu bench-statistics study-classic study-segmentation clean
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
	@$(PIP) install --no-deps $(SOMA) || echo "soma's own writers could not be installed; the tests of what they write skip"
	@touch $@

$(VENV)/.gpu: $(VENV)/.dev
	@$(PIP) install 'jax[cuda12]'
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
	$(BIN)/pytest -n 2 -m "not slow and not parity and not gpu and not ray"

test-slow: $(VENV)/.dev
	$(BIN)/pytest -n 2 -m "slow and not parity and not gpu and not ray"

parity: $(VENV)/.parity
	$(BIN)/pytest -m parity

ray: $(VENV)/.ray
	$(BIN)/pytest -m ray

matrix: $(VENV)/.dev
	$(BIN)/python -m experiments.matrix --out runs/matrix

study-pixels: $(VENV)/.dev
	$(BIN)/python -m experiments.ilse2018_pixels --out runs/pixels
	$(BIN)/python -m experiments.localisation --out runs/localisation

algorithmic: $(VENV)/.dev
	$(BIN)/python -m experiments.raff_holt2023

bench: $(VENV)/.parity
	$(BIN)/python -m benchmarks.train_speed --quick --out benchmarks/results/train_speed.json
	$(BIN)/python -m benchmarks.wide_bags --quick --out benchmarks/results/wide_bags.json
	$(BIN)/python -m benchmarks.study --quick --out benchmarks/results/study.json
	$(BIN)/python -m benchmarks.stream --quick --out benchmarks/results/stream.json
	$(BIN)/python -m benchmarks.read_speed --quick --out benchmarks/results/read_speed.json
	$(BIN)/python -m benchmarks.zoo_speed --quick --out benchmarks/results/zoo_speed.json
	$(BIN)/python -m benchmarks.tiles --out benchmarks/results/tiles.json
	$(BIN)/python -m benchmarks.encoders --out benchmarks/results/encoders.json
	$(BIN)/python -m benchmarks.embed --out benchmarks/results/embed.json

# A python that is named has all it needs (JAX with CUDA, pytest, jaxtyping, beartype); the flag makes equal seeds equal.
gpu: $(if $(filter command,$(firstword $(origin BIN))),,$(VENV)/.gpu)
	XLA_FLAGS="--xla_gpu_deterministic_ops=true" $(BIN)/python -m pytest -m gpu tests/gpu
	$(BIN)/python -m benchmarks.gpu --out benchmarks/results/gpu.json

bench-statistics: $(VENV)/.dev
	$(BIN)/python -m benchmarks.coverage --out benchmarks/results/coverage.json
	$(BIN)/python -m benchmarks.logrank_null --studies 4000 --out benchmarks/results/logrank_null.json
	$(BIN)/python -m benchmarks.comparison_null --out benchmarks/results/comparison_null.json

study-classic: $(VENV)/.dev
	$(BIN)/python -m experiments.study_classic --out runs/ilse2018
	$(BIN)/python -m experiments.classic_table runs/ilse2018

study-segmentation: $(VENV)/.dev
	$(BIN)/python -m experiments.glas_oeem --out runs/glas
	$(BIN)/python -m experiments.glas_weak --out runs/glas
	$(BIN)/python -m experiments.colon_weak --out runs/colon_weak
	$(BIN)/python -m experiments.glas_ablation --out runs/glas_ablation

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache

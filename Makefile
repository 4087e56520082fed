# Every command of the project. `make` alone prints them.
#
#   PYTHON=/path/to/python3   the Python that makes the environment (3.11 or newer; found by itself otherwise)
#   TORCH=cpu                 PyTorch without CUDA, chosen at the first install (start over with `make clean`)
#   VENV=folder               where the environment lives (.venv)
#   LAB_FLAGS="--no-browser"  more options for JupyterLab
#   ONE=09                    only this notebook (`make notebooks`)

VENV ?= .venv
PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)
PY = $(VENV)/bin/python
CONSTRAINTS = tests/constraints.txt
OMP_NUM_THREADS ?= 2
# A thread that waits for another one spins briefly, then sleeps. Long spinning, the default, slows a training many times
# over when another program wants the cores; none at all makes a DETR on scenes take half as long again on idle ones.
export GOMP_SPINCOUNT ?= 1000
NBVAL = --nbval --nbval-current-env --nbval-sanitize-with=tests/notebooks/sanitize.cfg --nbval-cell-timeout=900

ifeq ($(TORCH),cpu)
INDEX = --extra-index-url https://download.pytorch.org/whl/cpu
else ifneq ($(TORCH),)
$(error TORCH=$(TORCH) is not known: leave it out for PyTorch's default build, or say TORCH=cpu)
endif

# A stamp in the environment says what is installed there. It carries a checksum of what decides that:
# the two files of requirements and this folder (moving it breaks an editable install).
STAMP := $(VENV)/.installed-$(shell (cat pyproject.toml $(CONSTRAINTS); pwd) | cksum | tr ' ' '-')

# Somebody's MPLBACKEND=Agg would keep the figures out of the notebooks' outputs.
unexport MPLBACKEND

.PHONY: help lab test lint unit nbval notebooks bench install constraints clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

help:
	@echo "Commands:"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

lab: $(STAMP)-lab ## install what is missing, then open the course in JupyterLab
	$(PY) -m jupyter lab --ip=127.0.0.1 --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb \
		$(if $(filter 0,$(shell id -u)),--allow-root) $(LAB_FLAGS)

test: lint unit nbval ## install what is missing, then lint, unit tests, every notebook

lint: $(STAMP)-all ## ruff
	$(PY) -m ruff check .

unit: $(STAMP)-all ## every test under tests/, without the benchmarks
	OMP_NUM_THREADS=$(OMP_NUM_THREADS) $(PY) -m pytest tests

nbval: $(STAMP)-all ## run every stored notebook and compare its outputs
	OMP_NUM_THREADS=$(OMP_NUM_THREADS) $(PY) -m pytest $(NBVAL) --timeout=0 notebooks

notebooks: $(STAMP)-all ## build, run and store the notebooks (ONE=09: only that one)
	OMP_NUM_THREADS=$(OMP_NUM_THREADS) $(PY) notebooks/build.py $(ONE)

bench: $(STAMP)-all ## speed against other implementations (minutes, wants an idle machine)
	OMP_NUM_THREADS=$(OMP_NUM_THREADS) $(PY) -m pytest tests/benchmarks --timeout=0 $(BENCH_FLAGS)

install: $(STAMP)-all ## everything for working on the project, and nothing else

constraints: ## renew tests/constraints.txt: newest versions that pyproject.toml allows
	@test -n "$(PYTHON)" || { echo "$(NO_PYTHON)" >&2; exit 1; }
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && $(PYTHON) -m venv "$$folder" && \
	"$$folder/bin/python" -m pip install $(INDEX) --editable '.[notebooks,test,benchmarks]' && \
	{ echo "# The exact versions that the tests run with. Made by: make constraints"; \
	  "$$folder/bin/python" -m pip freeze --exclude-editable; } > $(CONSTRAINTS).new && \
	mv $(CONSTRAINTS).new $(CONSTRAINTS)

clean: ## remove the environment and every cache
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .benchmarks build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

NO_PYTHON = No Python 3.11 or newer was found. Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3

$(PY):
	@test -n "$(PYTHON)" || { echo "$(NO_PYTHON)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is not Python 3.11 or newer. Name another: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(STAMP)-lab: | $(PY)
	@echo "Installing into $(VENV). The first time this takes minutes, most of it for PyTorch."
	$(PY) -m pip install $(INDEX) --constraint $(CONSTRAINTS) --editable '.[notebooks]'
	@rm -f $(VENV)/.installed-* && touch $@

$(STAMP)-all: | $(PY)
	@echo "Installing into $(VENV). The first time this takes minutes, most of it for PyTorch."
	$(PY) -m pip install $(INDEX) --constraint $(CONSTRAINTS) --editable '.[notebooks,test,benchmarks]'
	@rm -f $(VENV)/.installed-* && touch $@ $(STAMP)-lab

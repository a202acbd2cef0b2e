# make quickstart   an environment in .venv, then 100 samples to a ranked table and a report
# make test         the tests
# make test-cluster a campaign through a Slurm that it starts on this machine
# make test-docker  builds the image with buildah and runs a worker from it; needs root, 10 GB and some minutes
# make test-crate   a campaign's RO-Crate by the profile's validator, its OPTIMADE file by optimade-maker, which pip
#                   installs in an environment of their own. These last three are skipped with the reason where that cannot
#                   be had, which REQUIRED=1 makes a failure
# make test-browser the web pages in Debian's chromium, at 1440 and 390 pixels; SCREENSHOTS=folder keeps the pictures
# make lint         ruff and mypy
# make bench        our speed beside the alternatives', as ratios within one run
# make results      the results table of the packaged models; DATA=curated.jsonl.gz (hours)
# make clean        remove .venv and caches; results in scdm-data/ stay
#
# Variables: PYTHON (default: python3.11, else python3), VENV (.venv), TORCH_INDEX (where CPU builds of torch are; empty:
# the usual index), PYTEST_ARGS.

VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
PYTEST_ARGS ?= -n 4 --dist worksteal

TORCH := $(shell sed -n 's/^torch==//p' requirements.lock)
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --no-input
INSTALL := $(PIP) install --quiet --constraint requirements.lock
INPUTS := pyproject.toml requirements.lock

.DEFAULT_GOAL := help
.PHONY: help quickstart install dev test test-cluster test-docker test-crate test-browser lint bench results clean

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

quickstart: install
	@$(VENV)/bin/scdm quickstart

install: $(VENV)/.installed
dev: $(VENV)/.installed-dev

$(VENV)/.created:
	@test -n "$(PYTHON)" || { echo "no python3.11 or python3 on the PATH; install Python 3.11, or set PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$$($(PYTHON) --version) is too old; install Python 3.11, or set PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { echo "cannot create $(VENV); on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 2; }
	@touch $@

# The CPU build where it can be had (200 MB); the plain one, which on Linux holds CUDA libraries of several GB, elsewhere.
# What torch depends on comes with the next step, in the versions of the lock file.
$(VENV)/.torch-$(TORCH): | $(VENV)/.created
	@echo "installing torch $(TORCH)"
	@{ test -n "$(TORCH_INDEX)" && $(PIP) --retries 0 --timeout 10 install --quiet --no-deps \
	    --index-url "$(TORCH_INDEX)" torch==$(TORCH) 2>/dev/null; } \
	  || $(INSTALL) --no-deps torch==$(TORCH)
	@touch $@

$(VENV)/.installed: $(INPUTS) $(VENV)/.torch-$(TORCH)
	@echo "installing scdm-flows (a few minutes the first time)"
	@$(INSTALL) --editable ".[embedded,server]"
	@touch $@

$(VENV)/.installed-dev: $(INPUTS) $(VENV)/.torch-$(TORCH)
	@echo "installing scdm-flows and what its tests need (a few minutes the first time)"
	@$(INSTALL) --editable ".[dev]"
	@$(INSTALL) --editable ".[gpaw]" 2>/dev/null \
	  || echo "GPAW could not be installed, as there is no gcc or no network: the test that runs it is skipped"
	@touch $@ $(VENV)/.installed

# Every program that the tests start would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

# One thread each: the tests run in parallel, four on two cores, as many wait for processes and servers. Those of one
# folder take long, so who is out of tests takes some over.
test: dev
	@OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest $(PYTEST_ARGS)

test-cluster: dev
	@tests/apt-install.sh "slurmctld slurmd munged" slurm-wlm munge
	@OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -s tests/cluster

test-docker: dev
	@tests/apt-install.sh "buildah debootstrap" buildah debootstrap
	@OMP_NUM_THREADS=1 TORCH_INDEX="$(TORCH_INDEX)" $(VENV)/bin/python -m pytest -s tests/image

test-crate: dev
	@OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest tests/crate

# The pages in a real browser; skipped, with the reason, where no chromium is installed.
test-browser: dev
	@tests/apt-install.sh "chromium" chromium
	@OMP_NUM_THREADS=1 SCDM_SCREENSHOTS="$(SCREENSHOTS)" $(VENV)/bin/python -m pytest tests/browser

lint: dev
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

bench: dev
	@OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/bench.py
	@OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/duplicates.py
	@OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/novelty.py
	@OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/relaxations.py -n 60
	@OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/hulls.py
	@OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/launchpad.py
	@OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/resume.py
	@OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/kills.py
	@folder=$$(mktemp -d) && OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/database.py --keep $$folder \
	  && OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/pages.py $$folder; rm -rf $$folder
	@OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/fuzz_server.py

results: dev
	@test -n "$(DATA)" || { echo "give the curated set: make results DATA=curated.jsonl.gz" >&2; exit 2; }
	@OMP_NUM_THREADS=1 $(VENV)/bin/scdm cards results --data $(DATA) --work scdm-data/results

clean:
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build
	@find scdm_flows models tests -name __pycache__ -type d -prune -exec rm -rf {} +

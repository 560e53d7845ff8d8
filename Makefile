# Two commands are all a newcomer needs: `make repro` and `make test`. Each target makes the environment it needs.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help repro rehearse ui doctor ablation frontier des-ablation attack test faults audit lint world bench clean env

VENV := .venv
STAMP := $(VENV)/.installed
# The first Python that is new enough; choose another with `make PYTHON=... repro`.
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

# Stages call `python`: the environment's own. Nothing here may reach a model hub or report usage.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
export HF_HUB_OFFLINE := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := 1
export PYTHONHASHSEED := 0

help:
	@echo "make repro         run every stage that is out of date, then print the results table; the page is report/index.html"
	@echo "make ui            Prefect's pages, the deployments and the report, on this machine only; Ctrl-C ends all"
	@echo "make doctor        what is missing, how to get it, and how long a run takes"
	@echo "make ablation      train and score every variant of the methods over several seeds, fill docs/findings.md (long)"
	@echo "make frontier      sweep the settings of the defences on the validation split, fill docs/findings.md (long)"
	@echo "make des-ablation  train DES and its extensions over several seeds, judge their images (long)"
	@echo "make attack        attack every defence, also through its own text tower; needs both ablations (long)"
	@echo "make test          run the tests"
	@echo "make faults        kill it, fill its disk, feed it hostile files: the long tests of tests/faults (15 minutes)"
	@echo "make audit         known vulnerabilities of the locked packages; asks PyPI, the only target that needs a network"
	@echo "make lint          ruff check and ruff format --check"
	@echo "make world         train the embedded world's models from nothing (hours on CPU, minutes on a GPU)"
	@echo "make rehearse      both paper profiles end to end, at reduced depth on made-up checkpoints and data"
	@echo "make bench         measure the speed-ups that are built in, side by side"
	@echo "make clean         delete data/, the page and DVC's cache; the environment and the shipped weights stay"

env: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or newer was not found; set PYTHON=/path/to/python" >&2; exit 2; }
	@test -x $(VENV)/bin/python || PATH="$${PATH#*:}" $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

repro: $(STAMP)
	@nearsafe repro

ui: $(STAMP)
	@exec nearsafe flow ui

doctor: $(STAMP)
	@nearsafe doctor

# A study of studies/dvc.yaml, with what it needs of the pipeline and of other studies; each stage with the time that is
# about left. Stop it at any time: the next call continues.
ablation frontier des-ablation attack: $(STAMP)
	@nearsafe repro studies/dvc.yaml:$(subst -,_,$@)_findings

test: $(STAMP)
	OMP_NUM_THREADS=1 pytest -q -n auto --dist loadfile -m "not faults"

# Kills, full disks, hostile files: the quick tests of tests/faults and the long ones; what they counted goes to data/bench.
faults: $(STAMP)
	@mkdir -p data/bench; rm -f data/bench/faults.jsonl
	OMP_NUM_THREADS=1 NEARSAFE_FAULTS_LOG=$(CURDIR)/data/bench/faults.jsonl pytest -q -n auto --dist loadfile tests/faults

# Known vulnerabilities of the lock's versions; asks PyPI.
audit: $(STAMP)
	python -m tests.audit

lint: $(STAMP)
	ruff check .
	ruff format --check .

world: $(STAMP)
	python -m pipeline.world.pretrain

rehearse: $(STAMP)
	python -m pipeline.rehearsal

bench: $(STAMP)
	python -m pipeline.bench --out data/bench
	@echo "python -m pipeline.bench_page data/bench takes this into docs/benchmarks.md"

clean:
	rm -rf data report .dvc/cache .dvc/tmp .nearsafe/cache

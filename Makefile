# Everything a person types. `make` alone lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
CONFIG ?= configs/sample.yaml
DATA ?=
BENCH ?= *
LINES ?= 1000000
SEED ?= 0
BIN := .venv/bin
FILE ?= tests
# Tests on every core, the longest files first (tests/scheduling.py); a part of them in one process, which starts at once.
SPREAD := -n auto --maxprocesses 8 --no-loadscope-reorder
PYTEST := $(BIN)/python -m pytest
UV_VERSION := 0.13.9

.PHONY: help setup run test test-all lint bench faults fuzz audit up down clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

setup: .venv/.installed ## make the virtual environment .venv from requirements.lock

.venv/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@mkdir -p -m 700 state
	@touch $@

run: export CONFIG := $(CONFIG)
run: export DATA := $(DATA)
run: setup ## run the main job: CONFIG=configs/sample.yaml DATA=<folder with train.tsv test.tsv>
	@$(BIN)/commerce-clip retrain --config "$$CONFIG" $${DATA:+--data "$$DATA"}

test: setup ## pass the tests that a person runs while working (10 minutes); FILE=tests/model/pairs for a part
	@$(PYTEST) $(if $(filter tests,$(FILE)),$(SPREAD)) $(FILE)

test-all: setup ## pass all tests with all rounds: nightly, before a release, before an issue is called resolved
	@TEST_ALL=1 $(PYTEST) $(SPREAD)

lint: setup ## ruff, mypy and the import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: setup ## print ratios against peers: BENCH=rank runs benchmarks/rank.py
	@set -e; for script in benchmarks/$(BENCH).py; do PYTHONPATH=. $(BIN)/python $$script; done

faults: setup ## inject faults and print what survived
	@TEST_ALL=1 $(PYTEST) $(SPREAD) -m faults -p tests.faults.table

fuzz: setup ## profile mutated lines: LINES=1000000 SEED=0; of the pairs below REAL_PAIRS, else drawn ones
	@$(BIN)/python -m tests.fuzz --lines $(LINES) --seed $(SEED)

audit: setup ## ask PyPI for known faults of the locked dependencies, where the network lets it
	@$(BIN)/python scripts/audit.py

up: setup ## start Prefect, a worker and MLflow on loopback; create the deployments
	@$(BIN)/commerce-clip up

down: ## stop what `make up` started
	@$(BIN)/commerce-clip down

clean: ## remove everything that runs left (state/), not the data and not .venv
	rm -rf state

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
# Files of tests on every core; a file stays in one process, for its tests share servers and fixtures.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder
UV_VERSION := 0.13.9

.PHONY: help setup run test lint bench faults fuzz up down clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: .venv/.installed ## make the virtual environment .venv from requirements.lock

.venv/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

run: setup ## run the main job: CONFIG=configs/sample.yaml DATA=<folder with train.tsv test.tsv>
	@$(BIN)/python -m flows retrain --config $(CONFIG) $(if $(DATA),--data $(DATA))

test: setup ## pass the tests
	@$(PYTEST)

lint: setup ## ruff, mypy and the import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: setup ## print ratios against peers: BENCH=rank runs benchmarks/rank.py
	@set -e; for script in benchmarks/$(BENCH).py; do PYTHONPATH=. $(BIN)/python $$script; done

faults: setup ## inject faults and print what survived
	@$(PYTEST) -m faults -p tests.faults.table

fuzz: setup ## profile mutated lines: LINES=1000000 SEED=0; of the pairs below REAL_PAIRS, else drawn ones
	@$(BIN)/python -m tests.fuzz --lines $(LINES) --seed $(SEED)

up: setup ## start Prefect, a worker and MLflow on loopback; create the deployments
	@$(BIN)/python -m flows up

down: ## stop what `make up` started
	@$(BIN)/python -m flows down

clean: ## remove everything that runs left (state/), not the data and not .venv
	rm -rf state

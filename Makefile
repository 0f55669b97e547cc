# Two commands matter: `make demo` and `make test`. Both set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test unit coverage lint types layers test-slow bench forgetting clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/obliviate demo

test: setup lint types layers unit

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

layers: setup
	$(BIN)/lint-imports

unit: setup
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

coverage: setup
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow" --cov --cov-report=term --cov-fail-under=95

test-slow: setup
	$(BIN)/python -m pytest -n auto --dist worksteal -m slow

bench: setup
	$(BIN)/python -m benchmarks

forgetting: setup
	$(BIN)/python experiments

clean:
	rm -rf $(VENV) demo .coverage .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

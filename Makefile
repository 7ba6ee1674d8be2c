# `make demo` and `make test` set up everything they need in .venv, from Python 3.11 and a package index alone.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: setup setup-dev demo test test-slow lint clean

setup: $(VENV)/installed

setup-dev: $(VENV)/installed-dev

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-tflite.txt
	$(INSTALL) -e '.[dev]'
	$(INSTALL) --no-deps -r requirements-tflite.txt
	touch $@

demo: setup
	$(BIN)/mobilebert-hf demo --output runs/demo

test: setup-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: setup-dev
	$(BIN)/python -m pytest -m slow -n 2 --dist worksteal

lint: setup-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

clean:
	rm -rf $(VENV) .cache runs

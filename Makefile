# `make demo` and `make test` set up everything they need in .venv, from Python 3.11 and a package index alone.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

.PHONY: setup demo test test-slow lint clean

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt requirements-tflite.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps -r requirements-tflite.txt
	touch $@

demo: setup
	$(BIN)/mobilebert-hf demo --output runs/demo

test: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal --cov --cov-report=term

test-slow: setup
	$(BIN)/python -m pytest -m slow

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .cache runs

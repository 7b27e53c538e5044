# Two commands: `make demo` and `make test`. Both make .venv first; nothing outside this folder is touched.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST := $(BIN)/python -m pytest -q -n logical --maxprocesses 8 --dist worksteal
# What is installed is compiled when it is first imported: most of it never is, and pip takes a minute to compile it all.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test format lint types document slow docs bench clean

demo: $(STAMP)
	$(BIN)/cosphere demo

test: $(STAMP)
	$(MAKE) --no-print-directory -j 4 format lint types document
	$(PYTEST)

format: $(STAMP)
	$(BIN)/ruff format --check .

lint: $(STAMP)
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

document: $(STAMP)
	$(BIN)/python -m cosphere.losses.engine.document --check docs/losses.md

slow: $(STAMP)
	$(PYTEST) --slow -m slow tests

docs: $(STAMP)
	$(BIN)/python -m cosphere.losses.engine.document docs/losses.md
	$(BIN)/python -m cosphere.cli.quick

bench: $(STAMP)
	$(BIN)/pip install -q -e '.[bench]'
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/laptop.py
	$(BIN)/python benchmarks/evaluation.py
	$(BIN)/python benchmarks/losses.py
	$(BIN)/python benchmarks/views.py

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Cosphere wants Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "installing torch and the rest: about 5.5 GB, a minute or two on a quick line"
	$(BIN)/python -m pip install -q --no-compile --upgrade pip
	$(BIN)/python -m pip install -q --no-compile -e '.[offline,test]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

# Two commands: `make demo` and `make test`. Both make .venv first; nothing outside this folder is touched.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q -n logical --maxprocesses 8 --dist worksteal

.PHONY: demo test slow docs bench clean

demo: $(STAMP)
	$(BIN)/cosphere demo

test: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m cosphere.losses.engine.document --check docs/losses.md
	$(PYTEST)

slow: $(STAMP)
	$(PYTEST) --slow -m slow

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
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -e '.[offline,test]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

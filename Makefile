# One word for each act, the same here and in CI.   make demo | test | check | docs | flags | bench | builtin | clean
#
# PYTHON picks the interpreter that .venv is made from; by default the first one found that is 3.11 or newer.

PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python3.14; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: demo test check format docs flags bench builtin clean

demo: .venv/installed
	$(BIN)/reverie demo

test: .venv/installed-dev
	$(BIN)/python -m pytest -n 2

check: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The site, in build/docs. Warnings are errors, and links are checked.
docs: .venv/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: .venv/installed-dev
	$(BIN)/python benchmarks/all.py

# Writes the page of all flags of the recipes from their code.
flags: .venv/installed
	$(BIN)/python -m reverie.recipes.options > docs/flags.md

# Trains the builtin models anew and writes them to reverie/models/builtin; run it again to go on.
builtin: .venv/installed
	$(BIN)/python -m reverie.builtin.train

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "reverie needs Python 3.11 or newer; tell make where it is: make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) --editable .
	touch $@

.venv/installed-dev: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) --editable '.[dev]'
	touch .venv/installed $@

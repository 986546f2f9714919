# Needs nothing but make and Python 3.11 or 3.12. `make demo` and `make test` install what they need into .venv first.

WANTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
# the first that will do; a name alone proves little, it may be a shim for an interpreter that is not there
PYTHON ?= $(shell for each in python3 python3.12 python3.11 python; do \
	$$each -c '$(WANTED)' >/dev/null 2>&1 && echo $$each && break; done)
BIN := .venv/bin
INSTALLED := .venv/installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo up test lint format types check bench docs soak clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 16

install: $(INSTALLED) ## create .venv and install into it

demo: $(INSTALLED) ## the whole system on this machine, a generated world, feeds as tables; less than a minute
	@$(BIN)/foryou demo

up: $(INSTALLED) ## the whole system on this machine until Ctrl-C
	@$(BIN)/foryou up

test: $(INSTALLED) ## all tests, in two processes; those end to end are skipped without a Docker engine
	@$(BIN)/python -m pytest -n 2 $(ARGS)

lint: $(INSTALLED) ## ruff: rules and format; words that plain English does without
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@! git grep -nwiF -f docs/words.txt -- '*.py' '*.md' '*.lua' '*.toml' Makefile ':!docs/words.txt' \
		':!infra/world/topics.py' || \
		(echo "the words of docs/words.txt have plainer ones" && false)

format: $(INSTALLED) ## put the code into its format
	@$(BIN)/ruff format

types: $(INSTALLED) ## mypy, strict
	@$(BIN)/mypy

check: lint types test ## lint, types and test

bench: $(INSTALLED) ## feeds per second and their latency on the embedded stack, as JSON
	@$(BIN)/python -m benchmarks.feed --embedded $(ARGS)

docs: $(INSTALLED) ## the documentation, into build/docs
	@$(BIN)/python -m tests.docs.settings_page
	@$(BIN)/mkdocs build --quiet

soak: $(INSTALLED) ## the long forms: many kills; with FORYOU_LOG=DIRECTORY a real log, whole
	@FORYOU_E2E=required FORYOU_SOAK=1 $(BIN)/python -m pytest tests/e2e/test_survival.py tests/e2e/test_nothing_lost.py tests/soak tests/benchmarks $(ARGS)

clean: ## remove what was installed and what tools have left
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .foryou
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(if $(shell $(or $(PYTHON),false) -c '$(WANTED)' >/dev/null 2>&1 && echo yes),,\
	$(error foryou needs Python 3.11 or 3.12, and $(or $(PYTHON),what is installed) is neither; \
	install one, or name one: make PYTHON=/path/to/python3.12))
	@$(PYTHON) -m venv .venv

$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into .venv: a minute or two, once"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[serve,train,embedded,dev]'
	@touch $@

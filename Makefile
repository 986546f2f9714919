# Needs make and Python 3.11 or 3.12. Each target first installs the packages into .venv.

WANTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
# the first suitable one is run, not only found by name: a name may be a shim for a missing interpreter
PYTHON ?= $(shell for each in python3 python3.12 python3.11 python; do \
	$$each -c '$(WANTED)' >/dev/null 2>&1 && echo $$each && break; done)
BIN := .venv/bin
INSTALLED := .venv/installed

.DEFAULT_GOAL := help
# each process would compile all packages from source
export PYTHONDONTWRITEBYTECODE :=
.DELETE_ON_ERROR:
.PHONY: help install demo up test lint format types check bench docs soak clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 16

install: $(INSTALLED) ## create .venv and install all packages into it

demo: $(INSTALLED) ## run the system on a generated world and print feeds, in about a minute
	@$(BIN)/foryou demo

up: $(INSTALLED) ## run the system on this machine until Ctrl-C
	@$(BIN)/foryou up

test: $(INSTALLED) ## run all tests; the end-to-end tests need a Docker engine
	@$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder $(ARGS)

# topics.py has texts of generated posts, not English of the project
lint: $(INSTALLED) ## check rules, format and words
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@! git grep -nwiF -f docs/words.txt -- '*.py' '*.md' '*.lua' '*.toml' Makefile ':!docs/words.txt' \
		':!infra/world/topics.py' || \
		(echo "replace these words (docs/words.txt) by plain English" && false)

format: $(INSTALLED) ## format the code
	@$(BIN)/ruff format

types: $(INSTALLED) ## check types with mypy --strict
	@$(BIN)/mypy

check: lint types test ## run lint, types and test

bench: $(INSTALLED) ## measure feeds per second and latency on the embedded stack, as JSON
	@$(BIN)/python -m benchmarks.feed --embedded $(ARGS)

docs: $(INSTALLED) ## build the documentation into build/docs
	@$(BIN)/python -m tests.docs.settings_page
	@$(BIN)/mkdocs build --quiet

SOAK := tests/e2e tests/feed_worker/test_safety.py tests/flows/test_redis_failover.py tests/fuzz tests/soak tests/benchmarks

soak: $(INSTALLED) ## run the long end-to-end tests; FORYOU_LOG=DIRECTORY adds a real log
	@FORYOU_E2E=required FORYOU_SOAK=1 $(BIN)/python -m pytest $(SOAK) $(ARGS)
	@FORYOU_E2E=required FORYOU_E2E_CLUSTER=1 $(BIN)/python -m pytest tests/e2e $(ARGS)

clean: ## remove .venv, caches and build outputs; keep .foryou
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(if $(shell $(or $(PYTHON),false) -c '$(WANTED)' >/dev/null 2>&1 && echo yes),,\
	$(error foryou needs Python 3.11 or 3.12, and $(or $(PYTHON),the installed Python) is neither; \
	install one, or set its path: make PYTHON=/path/to/python3.12))
	@$(PYTHON) -m venv .venv

$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into .venv, once: one to two minutes"
	@$(BIN)/python -m pip install --quiet --quiet --no-compile --disable-pip-version-check -c constraints.txt -e '.[serve,train,embedded,dev]'
	@touch $@

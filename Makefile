# Every target sets up what it needs: .venv, pip, torch, the package. A second call starts at once.
#
#   PYTHON       the interpreter that .venv is made from (3.11 or newer)
#   TORCH_INDEX  another package index for torch alone, for example PyTorch's CPU builds:
#                make race TORCH_INDEX=https://download.pytorch.org/whl/cpu
#   RACE, ARGS   optimizers and options of the race:  make race RACE="adamw soap" ARGS="--seeds 5"
#   DIR, ENGINE  trajectories and engine to verify:   make verify DIR=tests/oracles ENGINE=all
#   WORKERS      test processes at once

PYTHON  ?= python3
RACE    ?= adamw lion muon soap
DIR     ?= tests/oracles
ENGINE  ?= all
WORKERS ?= 2

BIN   := .venv/bin
STAMP := .venv/installed
PEERS := .venv/peers
DOCS  := .venv/docs
BENCHMARKS := products element_rules first_step matrix_rules all_rules low_bit train_step gpu
PIP   := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.DEFAULT_GOAL := help
.PHONY: help setup race test test-slow lint format bench docs verify clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile
	@echo "Variables (PYTHON, TORCH_INDEX, RACE, ARGS, DIR, ENGINE, WORKERS) are told at the top of the Makefile."

setup: $(STAMP) ## .venv with torch, the package and everything for its development

# torch comes first and alone, so that TORCH_INDEX serves nothing else; what torch itself needs
# comes with the package, from the usual index.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "steepest needs Python 3.11 or newer, and '$(PYTHON)' is not: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "Setting up .venv (once; torch is a large download) ..."
	@$(PYTHON) -m venv .venv
	@$(PIP) --no-deps --constraint constraints.txt $(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)") torch
	@$(PIP) --constraint constraints.txt --editable '.[dev]'
	@touch $@

race: $(STAMP) ## the race of AdamW, Lion, Muon and SOAP on real text; ends with a report page
	@$(BIN)/steepest race $(RACE) $(ARGS)

test: lint ## lint, then every test that takes seconds
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --durations=15 -rs $(ARGS)

test-slow: $(STAMP) ## the tests that take minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow --durations=15 -rs $(ARGS)

lint: $(STAMP) ## ruff, the import floors, mypy
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/mypy

format: $(STAMP) ## rewrite the sources in the one layout
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

bench: $(PEERS) ## every benchmark under benchmarks/, then the tables of its README; ARGS="--rounds 5" goes to each
	@for name in $(BENCHMARKS); do \
	  echo "== benchmarks/$$name.py"; $(BIN)/python benchmarks/$$name.py $(ARGS) || exit 1; done
	@$(BIN)/python benchmarks/tables.py

# Each by itself, as pinned: what timm would pull along replaces torch by a build with gigabytes of CUDA libraries.
$(PEERS): $(STAMP)
	@echo "Installing the peers of the benchmarks ..."
	@$(PIP) --no-deps --constraint constraints.txt heavyball opt-einsum pytorch_optimizer timm && touch $@ || \
	  echo "no peers from here: they are left out of the figures" >&2

docs: $(DOCS) ## the site with a page for each optimizer, in site/; every link is checked
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html is the first page; '$(BIN)/mkdocs serve' also searches"

$(DOCS): $(STAMP)
	@$(PIP) --constraint constraints.txt --editable '.[docs]'
	@touch $@

verify: $(STAMP) ## replay the recorded trajectories under DIR through the public classes
	@$(BIN)/steepest verify "$(DIR)" --engine $(ENGINE) $(ARGS)

clean: ## remove .venv and caches; runs/ and race/ hold results and stay
	rm -rf .venv build dist site src/*.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
	find src tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +

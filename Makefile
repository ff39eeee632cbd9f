# Every target sets up what it needs; a second run reuses it and needs no network (build excepted).
#   PYTHON=python3.12   the interpreter for a new environment (3.10 to 3.13; by default 3.10 if there is one)
#   VENV=.venv-3.12     the folder of the environment

PYTHON ?=
VENV ?= .venv
BIN := $(VENV)/bin

# A name on the path is not enough: what it starts must run, be of a supported version and make environments.
INTERPRETERS := $(or $(PYTHON),python3.10 python3.13 python3.12 python3.11 python3)
USABLE := import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test check fmt bench golden lava size build clean FORCE

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.run ## compile the bundled network, run it and compare it with the original
	$(BIN)/snnc demo

test: $(VENV)/.dev ## run the tests; those of Lava if 'make lava' was run
	SNNC_LAVA_PYTHON="$(or $(SNNC_LAVA_PYTHON),$(abspath $(wildcard $(VENV)-lava/bin/python)))" $(BIN)/python -m pytest -n auto --dist loadgroup

check: $(VENV)/.dev ## format, lint and types, changing nothing
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

fmt: $(VENV)/.dev ## format the code and mend what lint can
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

golden: $(VENV)/.dev ## rewrite the golden files; review the diff
	$(BIN)/python -m pytest tests/test_golden.py --golden

lava: $(VENV)-lava/.made ## an environment with Lava, which needs Python 3.10

$(VENV)-lava/.made:
	python3.10 -m venv $(VENV)-lava
	$(VENV)-lava/bin/python -m pip install --quiet --disable-pip-version-check 'lava-nc==0.10.0'
	@touch $@

bench: $(VENV)/.run ## measure the simulator; writes docs/performance.md
	$(BIN)/python benchmarks/simulator.py --write

size: ## lines of every Python file
	@find snncompiler passes backends tests models -name '*.py' -exec wc -l {} + | sort -n

build: $(VENV)/.made ## write the wheel to dist/
	rm -rf build
	$(BIN)/python -m pip wheel --no-deps --wheel-dir dist .

clean: ## remove the environment, caches and build outputs
	rm -rf build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@for env in $(VENV) $(VENV)-lava; do if [ -f $$env/pyvenv.cfg ]; then rm -rf $$env; fi; done

# Stamps are written last, so an interrupted set-up is done again. An environment of another version
# than the PYTHON asked for is an error; a working one is adopted; half of one is made anew.
$(VENV)/.made: $(if $(PYTHON),FORCE)
	@if $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  if [ -z "$(PYTHON)" ] || [ "$$($(BIN)/python -V)" = "$$($(PYTHON) -V)" ]; then \
	    test -f $@ || touch $@; exit; \
	  fi; \
	  echo "error: $(VENV) has $$($(BIN)/python -V), and PYTHON=$(PYTHON) was asked for" >&2; \
	  echo "  do: add VENV=.venv-other to keep both, or run 'make clean' first" >&2; exit 1; \
	fi; \
	if [ -f $(VENV)/pyvenv.cfg ]; then clear=--clear; fi; \
	for python in $(INTERPRETERS); do \
	  if $$python -c '$(USABLE)' 2>/dev/null; then \
	    echo "making $(VENV) with $$python ($$($$python -V))"; \
	    $$python -m venv $$clear $(VENV) && touch $@; exit; \
	  fi; \
	done; \
	echo "error: no usable Python among: $(INTERPRETERS)" >&2; \
	echo "  why: it must run, be 3.10 to 3.13, and have venv and ensurepip" >&2; \
	echo "  do:  install one (on Debian and Ubuntu with python3-venv), or name it: make PYTHON=/path/to/python3" >&2; \
	exit 1

$(VENV)/.run: pyproject.toml $(VENV)/.made
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.made
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(VENV)/.run $@

# Every target makes what it needs in .venv, so a fresh machine needs only Python and make.
PYTHON ?= python3
# The release that the parity tests were written with; its CPU build is small, hence the index.
TORCH ?= torch==2.13.0
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
PROMPT ?= Explain in three short sentences what gravity is.

VENV := .venv
BIN := $(VENV)/bin
# The notebooks' own environment holds only what runs them: their first cell installs the rest.
NOTEBOOKS := .venv-notebooks
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help setup demo test lint parity notebooks benchmark clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

setup: $(VENV)/.dev ## create .venv with everything that development needs

demo: $(VENV)/.run ## answer one prompt with Medusa beside plain decoding, and compare
	@$(BIN)/python -m infer.generate --compare --prompt "$(PROMPT)"

test: $(VENV)/.dev ## run the tests
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m tpu_compiler $$(grep -rl needs_tpu_compiler tests --include='test_*.py')
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m gpu_compiler $$(grep -rl needs_gpu_compiler tests --include='test_*.py')

lint: $(VENV)/.dev ## check style, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python

parity: $(VENV)/.parity ## run the live comparisons with transformers on torch
	$(BIN)/python -m pytest -q -n 2 tests/parity tests/medusa_jax/io/test_tensor_files.py tests/medusa_jax/io/heads

notebooks: $(NOTEBOOKS)/.created ## run the notebooks, which install themselves
	$(NOTEBOOKS)/bin/python -m pytest -q -c /dev/null --rootdir . --nbmake --nbmake-timeout=900 notebooks

benchmark: $(VENV)/.run ## measure plain and Medusa decoding on this machine
	$(BIN)/python -m infer.benchmark

clean: ## remove the environments, builds and tool caches
	rm -rf $(VENV) $(NOTEBOOKS) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamp files: each is newer than pyproject.toml once its part is installed.
$(VENV)/.created:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "make: '$(PYTHON)' is no Python 3.11 or newer: name one with make PYTHON=..." >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "make: '$(PYTHON)' has no venv: install it (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	"$(PYTHON)" -m venv --clear $(VENV)
	@touch $@

$(VENV)/.run: pyproject.toml | $(VENV)/.created
	$(INSTALL) -e .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.created
	$(INSTALL) -e ".[dev]"
	@touch $@ $(VENV)/.run

$(VENV)/.parity: pyproject.toml $(VENV)/.dev
	$(INSTALL) --no-deps --extra-index-url $(TORCH_INDEX) "$(TORCH)"
	$(INSTALL) -e ".[dev,parity]"
	@touch $@

$(NOTEBOOKS)/.created: pyproject.toml | $(VENV)/.created
	$(BIN)/python -m venv --clear $(NOTEBOOKS)
	$(NOTEBOOKS)/bin/python -m pip install --quiet --disable-pip-version-check "nbmake>=1.5.5"
	@touch $@

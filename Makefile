# make demo and make test work from a fresh checkout: each makes .venv and installs what it needs.

VENV := .venv
BIN := $(VENV)/bin
comma := ,
# The first Python that fits; override with make PYTHON=/path/to/python.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo $$p && break; done)

export NO_ALBUMENTATIONS_UPDATE := 1
export NO_MKDOCS_2_WARNING := 1

.DEFAULT_GOAL := help
.PHONY: help demo test coverage test-oldest test-litert test-executorch test-tensorflow lint format docs clean

help: ## Shows this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## Trains and shows a small model, from nothing, in a few minutes
	$(BIN)/mbv2kit demo

test: $(VENV)/.installed-dev ## Runs every test, the slow ones included
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=worksteal

coverage: $(VENV)/.installed-dev ## Runs every test and shows which branches of the library none of them takes
	$(BIN)/python -m pytest --cov --cov-report=term-missing --numprocesses=auto --maxprocesses=4 --dist=worksteal

test-litert: $(VENV)-litert/.installed ## Tests what writes LiteRT files, whose packages want an environment of their own
	$(VENV)-litert/bin/python -m pytest tests/exporting/test_litert.py tests/inference/runtimes/test_litert.py

test-oldest: $(VENV)-oldest/.installed ## Runs the quick tests on Python 3.11 with the oldest packages that pyproject.toml admits
	$(VENV)-oldest/bin/python -m pytest -m "not slow" --numprocesses=auto --maxprocesses=4 --dist=worksteal

test-executorch: $(VENV)-executorch/.installed ## The same for ExecuTorch
	$(VENV)-executorch/bin/python -m pytest tests/exporting/test_executorch.py tests/inference/runtimes/test_executorch.py

test-tensorflow: $(VENV)-tensorflow/.installed ## Compares published detectors with TensorFlow, in an environment of its own
	$(VENV)-tensorflow/bin/python -m pytest tests/weights/test_tensorflow.py

lint: $(VENV)/.installed-dev ## Checks style, types, the direction of imports and spelling
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell mbv2kit tools tests conf docs *.md Makefile pyproject.toml

format: $(VENV)/.installed-dev ## Formats the code and mends what ruff can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(VENV)/.installed-dev ## Builds the documentation into site/; a broken link is an error
	$(BIN)/python -m mkdocs build --strict

clean: ## Removes the virtual environments, caches and what was built; outputs/ stays
	rm -rf $(VENV) $(VENV)-litert $(VENV)-executorch $(VENV)-tensorflow $(VENV)-oldest build dist site *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python $(VENV)-litert/bin/python $(VENV)-executorch/bin/python $(VENV)-tensorflow/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed; name one with make PYTHON=/path/to/python." >&2; exit 2; }
	$(PYTHON) -m venv $(patsubst %/bin/python,%,$@)

# $(call install,ENVIRONMENT,EXTRAS): this checkout, and what it needs.
define install
	@echo 'Installing into $(1); the first time takes minutes.'
	$(1)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.$(2)'
	touch $@
endef

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(call install,$(VENV),[train])

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(call install,$(VENV),[dev])
	touch $(VENV)/.installed

$(VENV)-oldest/.installed: pyproject.toml tests/oldest.py
	python3.11 -m venv $(VENV)-oldest
	python3.11 tests/oldest.py > $(VENV)-oldest/constraints.txt
	@echo 'Installing into $(VENV)-oldest; this takes many minutes.'
	$(VENV)-oldest/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(VENV)-oldest/constraints.txt --editable '.[dev]'
	touch $@

$(VENV)-%/.installed: pyproject.toml | $(VENV)-%/bin/python
	$(call install,$(VENV)-$*,[test$(comma)$*])

# Needs Python 3.11 or newer with venv, make, and a package index that pip reaches. PYTHON=python3.12 picks another one.
# Everything is installed into .venv, at the versions of constraints.txt; what is there already is not installed again.

PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN  := $(VENV)/bin
PIP  := $(BIN)/python -m pip --disable-pip-version-check --quiet
PINS := -c constraints.txt --build-constraint constraints.txt

.PHONY: help test demo lint format types imports docs package check constraints clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' Makefile

test: $(VENV)/.test ## run the tests; ARGS="tests/lanes -k retry" runs some
	$(BIN)/python -m pytest $(or $(ARGS),tests)

demo: $(VENV)/.demo ## show it at work, in a shop with every sink
	@$(BIN)/python -m sidefx.demo $(ARGS)

lint: $(VENV)/.lint ## what ruff says of the code and of its form
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.lint ## put the code into the form that `make lint` wants
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.test $(VENV)/.lint ## mypy (strict) and pyright
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

imports: $(VENV)/.test $(VENV)/.lint ## the direction of the dependencies
	$(BIN)/lint-imports --no-logo

docs: $(VENV)/.docs ## build the documentation into site/
	$(BIN)/zensical build --clean --strict

package: $(VENV)/.test $(VENV)/.package ## build sdist and wheel; install and try them, with and without extras
	$(BIN)/python -m pytest -m wheel tests/packaging

check: lint types imports docs test package ## all of it

# On the oldest Python that is supported (3.11.2, Debian 12's): some packages leave it out before the others do.
constraints: ## resolve anew: the newest versions that pyproject.toml allows, into constraints.txt
	$(PYTHON) -m venv --clear $(VENV)-constraints
	$(VENV)-constraints/bin/python -m pip install --quiet --upgrade pip
	$(VENV)-constraints/bin/python -m pip install --quiet --editable '.[all,demo]' --group dev hatchling
	{ echo '# The exact versions that make installs, and CI tests. Written by `make constraints`.'; \
	  $(VENV)-constraints/bin/python -m pip freeze --all --exclude-editable | grep -v '^setuptools=='; } > constraints.new
	mv constraints.new constraints.txt
	rm -rf $(VENV)-constraints

clean: ## remove what make made
	rm -rf $(VENV) $(VENV)-constraints dist build site .cache .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

# A stamp says that a set of packages is installed as pyproject.toml and constraints.txt have it.

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("sidefx needs Python 3.11 or newer; $(PYTHON) is %d.%d. Try: make PYTHON=python3.12" % v[:2])'
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# pip itself first: the one that comes with older Pythons knows no dependency groups.
$(VENV)/.pip: $(VENV)/.made constraints.txt
	$(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt --upgrade pip
	@touch $@

$(VENV)/.test $(VENV)/.lint $(VENV)/.docs $(VENV)/.package $(VENV)/.demo: $(VENV)/.pip pyproject.toml

$(VENV)/.demo:
	$(PIP) install $(PINS) --editable '.[demo]'
	@touch $@

$(VENV)/.test:
	$(PIP) install $(PINS) --editable '.[all]' --group test
	@touch $@

$(VENV)/.docs:
	$(PIP) install $(PINS) --editable . --group docs
	@touch $@

$(VENV)/.lint $(VENV)/.package:
	$(PIP) install $(PINS) --group $(patsubst .%,%,$(@F))
	@touch $@

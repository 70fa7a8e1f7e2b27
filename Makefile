# Everything is set up in folders of this checkout; nothing on the machine is changed.
#
#   make demo    the whole flow on documents of this machine, against the simulator
#   make test    the tests
#   make example the example project of docs/examples, in an environment of its own
#   make crash-test   nights killed at every point and at random; long, see docs/crash-safety.md
#   make rehearsal N=1200000 TOKENS=3000   a whole archive against the simulator; with
#                  LEDGER=postgres HOME_AT=s3 WORKERS=2 in a bucket, by two processes
#   make bench   speed and memory against the plain SDK way; see docs/scale.md
#   make docs    writes the pages and tables of the documentation that follow from the code
#   make dev     Dagster's UI and daemon on http://localhost:3000, with the simulator beside it

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TEST_INSTALLED := $(VENV)/.installed-for-tests
# Documents of the rehearsal, and tokens of each.
N ?= 100000
TOKENS ?= 3000
# Where its ledger and home are, and how many processes work on it.
LEDGER ?= sqlite
HOME_AT ?= folder
WORKERS ?= 1
export BATCH_PIPELINE_HOME ?= $(CURDIR)/.home
# pip compiles on one core, and an editable install not at all; where Python may write no bytecode,
# each process would do it anew.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
COMPILE := $(BIN)/python -m compileall -q -j 0 $(VENV)/lib batch_pipeline

.PHONY: demo test example crash-test bench bench-realtime rehearsal check docs dev format clean
.DEFAULT_GOAL := demo

demo: $(INSTALLED)
	$(BIN)/batch-pipeline demo

test: $(TEST_INSTALLED)
	$(BIN)/python -m pytest -n 3 --dist worksteal

crash-test: $(TEST_INSTALLED)
	$(BIN)/python scripts/crash_test.py

bench-realtime: $(TEST_INSTALLED)
	$(BIN)/python -m benchmarks.realtime
	$(BIN)/python -m benchmarks.realtime --documents 50000 --kills 4

bench: $(TEST_INSTALLED)
	$(BIN)/python -m benchmarks

rehearsal: $(TEST_INSTALLED)
	$(BIN)/python -m benchmarks.rehearsal --documents $(N) --tokens $(TOKENS) \
		--ledger $(LEDGER) --home-at $(HOME_AT) --workers $(WORKERS)

check: $(TEST_INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(INSTALLED)
	$(BIN)/python -m batch_pipeline.jobs.key_table
	$(BIN)/python -m typer batch_pipeline.cli.app utils docs --name batch-pipeline \
		--title Commands --output docs/commands.md

example:
	PYTHON=$(PYTHON) scripts/example_project.sh

dev: $(INSTALLED)
	$(BIN)/python scripts/dev.py

format: $(TEST_INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	-$(PIP) --constraint constraints.txt --upgrade pip  # the one of Python 3.11 takes twice as long

$(INSTALLED): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --constraint constraints.txt --editable .
	$(COMPILE)
	touch $@

$(TEST_INSTALLED): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --constraint constraints.txt --editable '.[dev]'
	$(COMPILE)
	touch $@ $(INSTALLED)

clean:
	rm -rf $(VENV) .home .dagster .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

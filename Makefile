# `make` or `make help` lists what there is to make.

SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := flowgauge models streams producers schemas infra tests docs examples

.DEFAULT_GOAL := help
.PHONY: help demo test lint format bench docs golden tools clean distclean

help: ## List what there is to make.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.ready-demo ## Replay labelled traffic through the whole system and watch it (under a minute).
	@$(BIN)/flowgauge demo

test: $(VENV)/.ready-dev tools lint ## Lint, type check and run all tests, on a real Kafka broker too.
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile

lint: $(VENV)/.ready-dev ## Check style and types.
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy $(SOURCES)

format: $(VENV)/.ready-dev ## Put the code into the house's format.
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: $(VENV)/.ready-dev ## Measure decode, flow table, encode, agent and bus on this machine, beside NFStream and dpkt.
	$(BIN)/flowgauge bench --peers

docs: $(VENV)/.ready-dev ## Build the documentation into build/docs.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "open build/docs/index.html"

golden: $(VENV)/.ready-dev ## Write the golden files anew; read their diff before you commit it.
	UPDATE_GOLDEN=1 $(BIN)/pytest -q -k golden
	git --no-pager diff --stat

tools: $(VENV)/.ready-dev ## Get what the tests want beside Python: tshark, Java, Kafka.
	@.ci/tools $(BIN)/python

clean: ## Remove caches and builds.
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf

distclean: clean ## Remove the virtual environment too.
	rm -rf $(VENV)

# A stamp is older than pyproject.toml when the dependencies may have changed.
$(VENV)/.ready-demo: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[all]'
	@touch $@

$(VENV)/.ready-dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.ready-demo

$(VENV)/bin/python:
	@.ci/venv $(VENV)

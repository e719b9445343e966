# make run     installs what is needed, prepares ./var and serves on http://localhost:8080
# make test    the whole suite on SQLite, then what uses a database again on Postgres
# make check   formatting, linters, types, import contracts, deployment checks, missing migrations
# make bench   the load harness
# make fmt     formats and mends what can be mended
# make lock    compiles requirements*.in to requirements*.txt, with hashes

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help setup run test check bench lock fmt clean

BIN := .venv/bin
STAMPS := .stamps
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
# Most tests wait for servers and clocks, so that more processes than cores pay.
TEST_PROCESSES ?= 4
CHECK_DIR = $(STAMPS)/check

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

$(STAMPS)/venv: .ci/find-python
	@mkdir -p $(STAMPS)
	@python="$$(.ci/find-python)"; \
	if ! $(BIN)/python -c 'import sys; raise SystemExit(sys.version_info < (3, 12))' 2>/dev/null; then \
		echo "make: creating .venv with $$python"; rm -rf .venv; "$$python" -m venv .venv; \
	fi
	@touch $@

$(STAMPS)/runtime: requirements.txt $(STAMPS)/venv
	$(PIP) install --quiet --require-hashes -r requirements.txt
	@touch $@

$(STAMPS)/development: requirements-dev.txt $(STAMPS)/runtime
	$(PIP) install --quiet --require-hashes -r requirements.txt -r requirements-dev.txt
	@touch $@

setup: $(STAMPS)/development

run: export TOKENHUB_SIMULATED_PROVIDER ?= true
run: export TOKENHUB_LOG_FORMAT ?= console
run: $(STAMPS)/runtime
	@$(BIN)/python manage.py bootstrap
	@exec $(BIN)/python manage.py serve

test: $(STAMPS)/development
	.ci/install-system-packages
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadgroup $(ARGS)
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadgroup --database=postgres $(ARGS)

check: $(STAMPS)/development
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@mkdir -p $(CHECK_DIR)
	env -i PATH="$$PATH" TOKENHUB_DATA_DIR=$(CHECK_DIR) TOKENHUB_HTTPS=true \
		$(BIN)/python -W error::RuntimeWarning manage.py check --deploy --fail-level WARNING
	env -i PATH="$$PATH" TOKENHUB_DATA_DIR=$(CHECK_DIR) \
		$(BIN)/python manage.py makemigrations --check --dry-run

bench: $(STAMPS)/development
	$(BIN)/python -m benchmarks $(ARGS)

fmt: $(STAMPS)/development
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A separate environment, since what compiles the lists is itself on none of them.
$(STAMPS)/lock/bin/uv: $(STAMPS)/venv
	"$$(.ci/find-python)" -m venv $(STAMPS)/lock
	$(STAMPS)/lock/bin/python -m pip --disable-pip-version-check install --quiet uv

lock: $(STAMPS)/lock/bin/uv
	for list in requirements requirements-dev; do \
		$< pip compile --quiet --universal --python-version 3.12 --generate-hashes --no-annotate \
			--custom-compile-command "make lock" --output-file $$list.txt $$list.in; \
	done

clean:
	rm -rf .venv $(STAMPS) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

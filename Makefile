# Callgate. `make` lists the targets; everything runs in .venv, which `make install` sets up.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
PYTHON ?= python3
BIN := .venv/bin
# Python compiles a module when it is first imported. pip would compile all of them, which takes half a minute.
PIP := $(BIN)/pip --disable-pip-version-check install --no-compile
PORT ?=
ONCE ?=
# The branch coverage of app/ (tests/support/coverage.py); COVERAGE= runs the tests without.
COVERAGE ?= -p no:slipcover -p tests.support.coverage
# Where this is set, each process that a test starts would compile all modules again, which takes longer than the rest of its start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install demo dev test bench bench-rows chaos storm isolation check deploy-check lint format types contracts lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: .venv/installed ## Set up .venv with the locked dependencies

.venv/installed: requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Callgate needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	@echo "Setting up .venv (once, about a minute). A dot is a package:"
	@$(PYTHON) -m venv .venv
	@{ $(PIP) --require-hashes -r requirements-dev.lock 2>.venv/install.log || { cat .venv/install.log >&2; echo Failed; }; } | while read -r word _; do \
		case $$word in Collecting) printf . ;; Installing) printf ' unpacking' ;; Failed) exit 1 ;; esac; done
	@$(PIP) --quiet --no-deps --no-build-isolation --editable . 2>>.venv/install.log || { cat .venv/install.log >&2; exit 1; }
	@echo " done"
	@touch $@

demo: .venv/installed ## Place a SIP call through the gateway and watch it (ONCE=1: then end; PORT=8080: another port)
	@$(BIN)/callgate demo --with-parent $(if $(ONCE),--once) $(if $(PORT),--port $(PORT))

dev: .venv/installed ## Run Postgres, API, worker and simulator here, until Ctrl-C
	@$(BIN)/callgate dev --with-parent $(if $(PORT),--port $(PORT))

test: .venv/installed ## Run all tests
	$(BIN)/python -m pytest $(if $(ARGS),$(ARGS),-n 4 --dist loadfile --no-loadscope-reorder $(COVERAGE))

bench: .venv/installed ## Measure: ratios within one run, never a verdict (LIFE='--rates 10 --seconds 20 --calls 0': a shorter bench.life)
	$(BIN)/python -m bench.sip
	$(BIN)/python -m bench.transport
	$(BIN)/python -m bench.overload
	$(BIN)/python -m bench.life $(LIFE)
	$(BIN)/python -m bench.calls $(ARGS)

bench-rows: .venv/installed ## Measure ten million calls beside a hundred thousand (ROWS=1000000 takes a tenth of the time)
	$(BIN)/python -m bench.rows $(if $(ROWS),--rows $(ROWS)) $(ARGS)

chaos: .venv/installed ## Prove the promises under fire: kills, lost answers, restarts (SEED=1 replays)
	$(BIN)/python -m tests.proofs.chaos $(if $(SEED),--seed $(SEED)) $(ARGS)
	$(BIN)/python -m tests.proofs.paced $(if $(SEED),--seed $(SEED)) $(ARGS)

storm: .venv/installed ## Prove that tenants are told: callbacks shuffled, doubled, lost, workers killed (SEED=1 replays)
	$(BIN)/python -m tests.proofs.storm $(if $(SEED),--seed $(SEED)) $(ARGS)

isolation: .venv/installed ## Measure what a tenant's bad receiver costs another's deliveries
	$(BIN)/python -m bench.isolation $(ARGS)

check: lint types contracts deploy-check .venv-openapi/installed test ## Lint, types, import contracts, manifests and tests: what CI runs

deploy-check: .venv/installed .venv-checkov/installed ## Render the Kubernetes manifests; check them, the image's and the compose file
	@deploy/check

.venv-checkov/installed: requirements-checkov.lock .venv/installed
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-checkov
	@$(BIN)/uv pip sync --quiet --require-hashes --python .venv-checkov/bin/python requirements-checkov.lock
	@touch $@

.venv-openapi/installed: requirements-openapi.lock .venv/installed
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-openapi
	@$(BIN)/uv pip sync --quiet --require-hashes --python .venv-openapi/bin/python requirements-openapi.lock
	@touch $@

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/installed ## Format the code and mend what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: .venv/installed
	$(BIN)/mypy

contracts: .venv/installed
	$(BIN)/lint-imports

lock: .venv/installed ## Resolve the dependencies anew (hashes, no host names)
	$(BIN)/uv pip compile --quiet --upgrade pyproject.toml --extra otel --universal --python-version 3.11 --generate-hashes \
		--no-header --no-emit-index-url -o requirements.lock
	$(BIN)/uv pip compile --quiet --upgrade pyproject.toml --extra dev --extra otel --group dev --universal --python-version 3.11 \
		--generate-hashes --no-header --no-emit-index-url -o requirements-dev.lock
	$(BIN)/uv pip compile --quiet --upgrade --group pyproject.toml:checkov --universal --python-version 3.11 \
		--generate-hashes --no-header --no-emit-index-url -o requirements-checkov.lock
	$(BIN)/uv pip compile --quiet --upgrade --group pyproject.toml:openapi --universal --python-version 3.11 \
		--generate-hashes --no-header --no-emit-index-url -o requirements-openapi.lock

clean: ## Remove .venv and the state folder .callgate with its database
	@if $(BIN)/callgate --version >/dev/null 2>&1; then $(BIN)/callgate clean; fi
	@rm -rf .venv .venv-checkov .venv-openapi .callgate build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

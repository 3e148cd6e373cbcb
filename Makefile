# Two commands do everything on a fresh machine: `make run` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
# Tests that no other test disturbs, two files at a time; all others have the machine for themselves.
TOGETHER := tests/unit $(addprefix tests/integration/,api artifacts client controller data engine \
	evaluation gateway models planner store)
# What fails once and passes then is named as RERUN: mend it.
TWICE := --reruns 1 -raR --durations 20
PATHS := platform workers tests benchmarks tools deploy
export RAY_USAGE_STATS_ENABLED := 0
export HF_HUB_OFFLINE := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := true

.PHONY: help install run test check lint types imports collect pure format down clean images images-control \
	compose-test

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: .venv/.installed  ## .venv with pinned versions (TORCH_INDEX=URL for another torch)

.venv/.installed: pyproject.toml constraints.txt tools/install.py
	@$(PYTHON) tools/install.py

run: install  ## install, then the whole way: train in 3D, kill, resume, serve, ask
	@$(BIN)/python tools/preflight.py --ports 8080 8081
	@$(BIN)/quarterdeck demo

test: install  ## everything this machine can run
	@$(BIN)/python tools/preflight.py
	@$(MAKE) --no-print-directory lint types imports
	@$(BIN)/python -m pytest $(TWICE) -n 2 --dist loadfile $(TOGETHER)
	@$(BIN)/python -m pytest $(TWICE) tests $(TOGETHER:%=--ignore=%)

check: install lint types imports collect pure  ## lint, types, import rules, every test found, pure rooms

lint:
	@$(BIN)/ruff check $(PATHS)
	@$(BIN)/ruff format --check $(PATHS)

types:
	@$(BIN)/mypy

imports:
	@$(BIN)/lint-imports

pure:
	@$(BIN)/python -m pytest tests/unit -q -x -n 2

collect:
	@found=$$($(BIN)/python -m pytest --collect-only -qq tests) || { echo "$$found"; exit 1; }

format:
	@$(BIN)/ruff check --fix $(PATHS)
	@$(BIN)/ruff format $(PATHS)

down:  ## stop the platform and remove all that it made
	@$(BIN)/quarterdeck down --purge

images:  ## container images control and worker (IMAGE_REGISTRY, IMAGE_TAG, BASE_IMAGE, TORCH_INDEX)
	@$(PYTHON) tools/images.py control worker

images-control:  ## only the control plane's
	@$(PYTHON) tools/images.py control

compose-test: install  ## compose.yaml with a job through it, in the Docker daemon of this machine
	@$(BIN)/python deploy/compose_test.py

clean: ## remove the virtual environment and caches
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

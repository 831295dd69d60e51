# Each target does its own set-up and can be run again. `make help` lists them.

VENV ?= .venv
BIN := $(VENV)/bin
TORCH := $(shell sed -n 's/^ *"\(torch==[^"]*\)".*/\1/p' pyproject.toml)
FIND_LINKS := $(foreach place,$(PIP_FIND_LINKS),--find-links $(place))
COMPOSE ?= docker compose
WORKERS ?= 2
STAMP := $(VENV)/.boig-setup
DOCS_VENV ?= .venv-docs
DOCS_STAMP := $(DOCS_VENV)/.boig-setup
SBOM_VENV ?= .venv-sbom
SBOM_STAMP := $(SBOM_VENV)/.boig-setup

# Dozens of short processes import torch, ray and Airflow; without compiled modules each of them compiles anew where Python writes none.
export UV_COMPILE_BYTECODE := 1
unexport PYTHONDONTWRITEBYTECODE
export RAY_USAGE_STATS_ENABLED := 0
export DO_NOT_TRACK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test check docs lock sbom up down clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## virtual environment with every pinned package
	@:

# What the lock names is held to its hashes, what builds the few source packages included. torch comes first and beside it: which of its
# builds this machine takes is the installer's matter, and each has another hash. deepspeed compiles nothing at install (DS_BUILD_OPS=0).
LOCKED = $(BIN)/uv pip install --quiet --python $(BIN)/python --build-constraints requirements.lock

$(STAMP): pyproject.toml requirements.lock infra/tools/uv.lock
	@test -n "$(TORCH)" || { echo "make: no torch==... pin found in pyproject.toml" >&2; exit 1; }
	@echo "make: installing the pinned packages into $(VENV), a minute or more …"
	@if [ ! -x $(BIN)/python ]; then \
	  for python in python3.11 python3.12 python3; do \
	    if $$python -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then \
	      exec $$python -m venv $(VENV); \
	    fi; \
	  done; \
	  echo "make: no python3.11 or python3.12 with venv was found; install one (Debian: apt-get install python3.11-venv)" >&2; exit 1; \
	fi
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r infra/tools/uv.lock
	@$(LOCKED) $(FIND_LINKS) --constraints requirements.lock $(TORCH)
	@DS_BUILD_OPS=0 $(LOCKED) --require-hashes --no-deps -r requirements.lock
	@$(LOCKED) --no-deps -e .
	@$(BIN)/uv pip check --quiet --python $(BIN)/python
	@rm -rf boig.egg-info  # a second way to our plugin: Airflow, started here, would leave out every plugin that comes after it
	@touch $@

demo: setup ## ad world, Ray, Airflow and all four DAGs on this machine; ARGS="--keep" leaves them up
	@$(BIN)/boig demo $(ARGS)

# Tests that share servers stay with one worker, and the dearest begin first (tests/conftest.py).
test: setup ## the whole test suite; ARGS="-m 'not slow'" for the quick part
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder $(ARGS)

check: setup $(DOCS_STAMP) ## lint, format, types, layers and pages: exactly what CI checks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy boig_core ray_jobs dags infra/evidence infra/docs infra/tools
	$(BIN)/lint-imports
	$(BIN)/python -m infra.docs.reference --check
	$(BIN)/python -m infra.evidence.published --check
	$(MKDOCS)

docs: setup $(DOCS_STAMP) ## the documentation's site, into site/; a link that leads nowhere fails
	$(BIN)/python -m infra.docs.reference
	$(BIN)/python -m infra.evidence.published
	$(MKDOCS)

MKDOCS = NO_MKDOCS_2_WARNING=true $(DOCS_VENV)/bin/mkdocs build --quiet --strict --config-file infra/docs/mkdocs.yml

# Packages of the site stand apart: none of them is needed to run or test boig.
$(DOCS_STAMP): $(STAMP) infra/docs/requirements.lock
	@echo "make: installing the documentation's packages into $(DOCS_VENV) …"
	$(call APART,$(DOCS_VENV),infra/docs/requirements.lock)
	@touch $@

# An environment of its own for what boig itself does not need: $(1) its folder, $(2) its lock.
define APART
@test -x $(1)/bin/python || $(BIN)/python -m venv --without-pip $(1)
@$(BIN)/uv pip install --quiet --python $(1)/bin/python --require-hashes --no-deps -r $(2)
endef

RESOLVE := $(BIN)/uv pip compile --python-version 3.11 --upgrade --quiet --no-emit-index-url --no-emit-find-links --no-header --no-annotate
RESOLVE_BOIG = $(RESOLVE) pyproject.toml --extra dev --extra postgres --python-platform x86_64-manylinux_2_28 $(FIND_LINKS)

# What torch itself needs (nvidia-*, triton, cuda-*) stays out with it: it differs between a CPU and a CUDA build. Each is left out by name,
# with its hashes.
lock: setup ## resolve all locks again, each package with its hashes
	out=$$($(RESOLVE_BOIG)) && out=$$(echo "$$out" | sed -nE 's/^(torch|(nvidia|cuda|triton)[a-z0-9-]*)==.*/--no-emit-package \1/p') && \
	  $(RESOLVE_BOIG) --generate-hashes $$out > requirements.lock.new
	test -s requirements.lock.new && ! grep -n '://' requirements.lock.new
	mv requirements.lock.new requirements.lock
	$(RESOLVE) --generate-hashes infra/docs/requirements.in --output-file infra/docs/requirements.lock
	echo uv | $(RESOLVE) --generate-hashes --output-file infra/tools/uv.lock -
	echo cyclonedx-bom | $(RESOLVE) --generate-hashes --output-file infra/tools/sbom.lock -
	! grep -n '://' infra/*/*.lock

sbom: $(SBOM_STAMP) ## dist/boig.cdx.json: every pinned package with its hashes, as CycloneDX
	@$(BIN)/python -m infra.tools.sbom $(SBOM_VENV)/bin/cyclonedx-py dist/boig.cdx.json

$(SBOM_STAMP): $(STAMP) infra/tools/sbom.lock
	@echo "make: installing cyclonedx-py into $(SBOM_VENV) …"
	$(call APART,$(SBOM_VENV),infra/tools/sbom.lock)
	@touch $@

up: .env ## the compose stack, until it is healthy: Airflow, Ray, S3, MLflow, Postgres, Prometheus
	$(COMPOSE) up --detach --build --wait

down: ## stop the compose stack; its volumes stay, but for what Ray's nodes had in /tmp and at home
	$(COMPOSE) rm --stop --force --volumes
	$(COMPOSE) down

# What is there stays; secrets that a newer version asks for are added.
.env: infra/docker/write-env.sh
	@umask 077; touch $@; \
	  { awk 1 $@; infra/docker/write-env.sh | while read -r line; do grep -q "^$${line%%=*}=" $@ || echo "$$line"; done; } > $@.new && mv $@.new $@

clean: ## remove what runs and tests leave: .boig, caches, the environments of pages and bill of materials
	rm -rf .boig $(DOCS_VENV) $(SBOM_VENV) dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find boig_core ray_jobs dags tests -name __pycache__ -type d -prune -exec rm -rf {} +

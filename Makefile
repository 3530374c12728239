# One vocabulary for people, hooks and CI.
VENV := .venv
PYTHON ?= python3
MLFLOW_PORT ?= 5000
PREFECT_PORT ?= 4200
STAMP := $(VENV)/.installed
# The folder that .venv was made in.
FOLDER_NOTE := $(VENV)/.folder

export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# Nothing that we start sends telemetry, and its state stays in this folder.
export DO_NOT_TRACK := true
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DVC_NO_ANALYTICS := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export HF_UPDATE_DOWNLOAD_COUNTS := 0
export GX_ANALYTICS_ENABLED := false
export RAY_USAGE_STATS_ENABLED := 0
export PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS ?= 120
export PREFECT_HOME ?= $(CURDIR)/state/prefect
export DVC_SITE_CACHE_DIR ?= $(CURDIR)/state/dvc

# Our servers are on loopback, where a proxy does not reach them.
export no_proxy := 127.0.0.1,localhost,$(or $(no_proxy),$(NO_PROXY))
export NO_PROXY := $(no_proxy)

# Set when a git hook calls make, and meant for its repository alone.
unexport GIT_DIR GIT_INDEX_FILE GIT_WORK_TREE

# Without bytecode every start compiles all imports again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install git-check FORCE run check test torture test-servers bench bench-check docs lint format real experiments mlflow-ui prefect-ui service alerts stack stack-down lock clean clean-all

help: ## The targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(STAMP) ## Make .venv from the lock files

# DVC needs a git repository: a clone, a worktree, a submodule or a folder in one.
git-check:
	@said=$$(LC_ALL=C git rev-parse --is-inside-work-tree 2>&1) && test "$$said" = true || { case "$$said" in \
	  false | *"not a git repository"*) echo "Error: $(CURDIR) is in no git repository; DVC needs one: git init" ;; \
	  *) echo "Error: DVC needs git and a git repository: $$said" ;; esac >&2; exit 2; }

# The paths in .venv are absolute: in a moved or copied folder it would run the code of the old one.
ifneq ($(shell cat $(FOLDER_NOTE) 2>/dev/null),$(CURDIR))
$(STAMP): FORCE
endif
FORCE:

# The stamp is written last, so that an interrupted installation resumes.
$(STAMP): requirements.lock requirements-dev.lock pyproject.toml | git-check
	@test ! -e $(FOLDER_NOTE) || test "$$(cat $(FOLDER_NOTE))" = "$(CURDIR)" || \
	  { echo "$(VENV) was made in another folder: it is made again."; rm -rf $(VENV); }
	$(PYTHON) -m venv $(VENV)
	@echo "$(CURDIR)" > $(FOLDER_NOTE)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
	  -r requirements.lock -r requirements-dev.lock
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(VENV)/bin/python -m pip --disable-pip-version-check check
	@touch $@

run: install ## Train, gate, promote and score, end to end
	@mkdir -p "$$PREFECT_HOME"
	python -m flows.first_run

# The fifth of the tests that protects most.
CHECKED := tests/flows/test_retraining.py::test_the_first_run_makes_every_artifact_and_a_champion_and_says_where_they_are \
  tests/faults/test_kills.py::test_kills_at_each_named_point_in_turn_change_nothing_in_the_end \
  tests/test_house.py tests/test_pipeline_definition.py tests/test_readme.py \
  tests/core/test_engines.py tests/core/images/test_reading.py \
  tests/networks/test_checkpoints.py tests/score/test_images.py \
  tests/data/test_generate.py tests/data/test_split.py tests/degrade/test_calibrated_profile.py \
  tests/train/test_loop.py tests/train/test_training_resume.py tests/evaluate/test_metrics.py \
  tests/release/gate tests/release/registry/test_champion.py

check: install ## The fifth of the tests that protects most, in two to three minutes
	@mkdir -p "$$PREFECT_HOME"
	OMP_NUM_THREADS=1 python -m pytest -n 2 --dist worksteal $(CHECKED)

test: install ## The whole test suite
	@mkdir -p "$$PREFECT_HOME"
	OMP_NUM_THREADS=1 python -m pytest -n 2 --dist worksteal

torture: install ## Faults with many seeds, fuzzing and a soak test (SOAK_INPUTS=50000), as a table
	@mkdir -p "$$PREFECT_HOME"
	OMP_NUM_THREADS=1 python -m pytest -n 2 --dist worksteal -v -p tests.torture -m torture --timeout 1500

test-servers: install ## The whole way on PostgreSQL, S3, MLflow and Prefect, and their faults
	@mkdir -p "$$PREFECT_HOME"
	OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadscope -v -m servers --timeout 1500

bench: install ## Speed against the obvious implementation: a table, in about 15 minutes
	python -m benchmarks

AGAINST ?=

bench-check: install ## Whether scoring lost speed since the latest tag, or AGAINST=COMMIT: fails above 10 %, in minutes
	python -m benchmarks.regression $(if $(AGAINST),--against $(AGAINST))

REAL ?= ../shared/real
MODEL ?= bundled

real: install ## How well real defects are found: REAL=FOLDER of sets, MODEL=one to test, EARLIER="others"; writes reports/real.md
	python -m benchmarks.real "$(REAL)" --model "$(MODEL)" --earlier $(EARLIER)

docs: install ## The site of docs/ in build/site, with the reference of commands, parameters and Python; a broken link fails
	python -m sphinx --fail-on-warning --keep-going --quiet docs build/site

lint: install ## ruff, mypy, import contracts
	ruff check .
	ruff format --check .
	mypy
	mypy recipes
	lint-imports --no-cache

format: install ## Let ruff fix what it can
	ruff check --fix .
	ruff format .

mlflow-ui: install ## Runs, metrics, models: http://127.0.0.1:5000, or MLFLOW_PORT=N
	@python -m tasks.local_server free $@ MLFLOW_PORT "$(MLFLOW_PORT)"
	@MLFLOW_TRACKING_URI= python -c "import pathlib; from quality_model.release import mlflow_connection; \
	  mlflow_connection.connect(pathlib.Path())"  # finds the artifacts if the folder was moved
	mlflow server --backend-store-uri sqlite:///mlflow.db --host 127.0.0.1 --port $(MLFLOW_PORT) --workers 1

# Of its 170 columns: the metrics, and the parameters that differ.
experiments: install ## Compare workspace, commits and experiments: metrics, and the parameters that differ
	dvc exp show --md --only-changed --drop '^(quality_model|data|models|reports)/' --keep '^(loss|(?!train)\w+\.(r2|clean_flag_share))$$'

# The pages in the browser call the first address; alerts link to the second.
prefect-ui: export PREFECT_SERVER_UI_API_URL := http://127.0.0.1:$(PREFECT_PORT)/api
prefect-ui: export PREFECT_UI_URL ?= http://127.0.0.1:$(PREFECT_PORT)
prefect-ui: install ## Flows and schedules: http://127.0.0.1:4200, or PREFECT_PORT=N
	@python -m tasks.local_server free $@ PREFECT_PORT "$(PREFECT_PORT)"
	@mkdir -p "$$PREFECT_HOME"
	prefect server start --host 127.0.0.1 --port $(PREFECT_PORT)

service: export PREFECT_API_URL := http://127.0.0.1:$(PREFECT_PORT)/api
service: install ## Deploy the schedules and work on them (needs prefect-ui running)
	@python -m tasks.local_server ours "$(PREFECT_PORT)"
	prefect work-pool create quality --type process --overwrite
	prefect --no-prompt deploy --all
	prefect worker start --pool quality

stack: install ## PostgreSQL, S3, MLflow, Prefect and a worker on loopback, in state/stack (PORTS="mlflow=5000 prefect=4200")
	@python -m deploy.stack up $(PORTS)

stack-down: install ## End what `make stack` started; nothing is lost
	@python -m deploy.stack down

alerts: export PREFECT_API_URL := http://127.0.0.1:$(PREFECT_PORT)/api
alerts: install ## Notify BLOCKS="TYPE/NAME ..." of what prefect.yaml calls an alert (needs prefect-ui running)
	@python -m tasks.local_server ours "$(PREFECT_PORT)"
	@python -m tasks.alerts $(BLOCKS)

lock: ## Resolve the lock files again (needs uv; UV_FLAGS=--upgrade for newer versions)
	@mkdir -p build
	cat requirements.lock requirements-dev.lock > build/resolved.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet \
	  $(UV_FLAGS) --extra all --extra dev pyproject.toml -o build/resolved.lock
	$(PYTHON) .ci/locks.py build/resolved.lock

# Of scores/ only what the flows named after a time: other results belong to the user.
DIGITS := [0-9][0-9]
SCORES := scores/$(DIGITS)$(DIGITS)-$(DIGITS)-$(DIGITS)T$(DIGITS)$(DIGITS)$(DIGITS)Z
MADE := data/images data/training data/.[!.]* models/candidate reports samples examples $(SCORES) dvc_plots build \
  .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

# No file that git tracks. (`git clean` would remove a whole folder that a repository around this one ignores.)
clean: git-check ## Remove what a run makes again: data, models/candidate (kept in DVC's cache), reports, samples, scores/TIME, caches
	git ls-files --others -z -- $(MADE) | xargs -0 rm -f
	find $(MADE) -type d -empty -delete 2>/dev/null || true
	find . \( -name .venv -o -name .git -o -name state \) -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

KEPT := mlflow.db* mlartifacts mlruns state .dvc/cache .dvc/tmp

clean-all: ## Also remove the model registry, the decisions and DVC's cache: needs CONFIRM=yes
	@test "$(CONFIRM)" = yes || { echo "Error: this removes models, decisions and caches for good ($(KEPT));" \
	  "if you mean it: make clean-all CONFIRM=yes" >&2; exit 2; }
	@test ! -e state/stack/stack.json || python -m deploy.stack down
	@$(MAKE) --no-print-directory -f $(firstword $(MAKEFILE_LIST)) clean
	rm -rf $(KEPT)

# Every target does its own set-up in .venv; `make PYTHON=python3.12 ...` names another interpreter.
PYTHON ?= python3
export PYTHON

# A path with spaces must work, so everything below is relative to the clone.
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
CODE := blocks flows tests benchmarks

# What is run here keeps to itself: no Prefect server, profile or ledger of yours is touched.
ALONE := env -u PREFECT_API_URL -u PREFECT_API_KEY -u PREFECT_API_AUTH_STRING -u PREFECT_PROFILE -u PREFECT_PROFILES_PATH \
	-u ROWSHOT_ANYCAP -u ANYCAP_API_KEY DO_NOT_TRACK=1

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-browser crashtest test-directus test-all lint format types bench constraints clean setup-run setup-dev setup-all

help: ## say what there is
	@echo "Rowshot: a CSV becomes images, each paid for once. make TARGET, where TARGET is"
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1|\2/p' Makefile | awk -F'|' '{printf "  %-14s %s\n", $$1, $$2}'

setup-run setup-dev setup-all: setup-%:
	@.ci/setup $*

demo: setup-run ## make the images of examples/products.csv, drawn here for nothing
	@mkdir -p .demo
	@$(ALONE) PREFECT_HOME="$(CURDIR)/.demo/prefect" ROWSHOT_LEDGER="sqlite:///$(CURDIR)/.demo/ledger.db" \
		$(BIN)/rowshot run examples/products.csv --output .demo/output

test: setup-dev ## run the tests, with the real parts that come as wheels
	@$(PYTEST) --ignore=tests/browser --ignore=tests/directus

test-fast: setup-dev ## run the tests that need no server, in seconds
	@$(PYTEST) --ignore=tests/browser --ignore=tests/directus --ignore=tests/flows --ignore=tests/crash --ignore=tests/delivery

crashtest: setup-dev ## kill runs at 20 moments; ROWSHOT_CRASH_SEED=N repeats those of an earlier time
	@ROWSHOT_CRASH_MOMENTS=$${ROWSHOT_CRASH_MOMENTS:-20} ROWSHOT_CRASH_AWAY_S=60 $(PYTEST) -v -s tests/crash

test-browser: setup-all ## run the tests that need Chromium
	@command -v chromium >/dev/null || { echo "Chromium is missing. On Debian: apt-get install chromium fonts-nanum" >&2; exit 1; }
	@$(PYTEST) tests/browser

test-directus: setup-dev ## run the tests that need a real CMS; the first time it takes minutes to install
	@echo "Directus is kept in ~/.cache/rowshot; the first time npm takes about 4 minutes to fetch it."
	@$(PYTEST) tests/directus

test-all: test test-browser test-directus ## run every test; needs system packages and says which are missing

lint: setup-dev ## check style and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || { echo "Not formatted; mend it with: make format" >&2; exit 1; }

format: setup-dev ## format the code, and mend what ruff can mend
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

types: setup-all ## check the types
	@$(BIN)/mypy

bench: setup-dev ## print the figures that docs/ tells
	@$(BIN)/python benchmarks/plan_and_start.py && $(BIN)/python benchmarks/thousand_rows.py

constraints: ## resolve the newest versions that fit pyproject.toml into constraints.txt
	@echo "Resolving into a fresh environment (a minute or two) ..."
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && $(PYTHON) -m venv "$$fresh" && \
		"$$fresh/bin/python" -m pip install -qq --disable-pip-version-check -e '.[all]' && \
		{ echo "# The versions that the tests ran with. Made by: make constraints"; \
		  "$$fresh/bin/python" -m pip freeze --quiet --exclude-editable | grep -E '^[A-Za-z0-9._-]+==' ; } > "$$fresh/constraints.txt" && \
		cp "$$fresh/constraints.txt" constraints.txt

clean: ## remove what make and the demo have made
	@rm -rf .venv .venv-busy .parts .demo build dist .mypy_cache .ruff_cache .pytest_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Every target does its own set-up in .venv; `make PYTHON=python3.12 ...` names another interpreter.
PYTHON ?= python3
export PYTHON

# A path with spaces must work, so everything below is relative to the clone.
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
# Tests wait more than they compute: so many files at a time. JOBS=0 runs one after the other.
JOBS ?= 3
TOGETHER = -n $(JOBS) --dist loadfile
CODE := blocks flows tests benchmarks

# What is run here keeps to itself: no Prefect server, profile or ledger of yours is touched.
ALONE := env -u PREFECT_API_URL -u PREFECT_API_KEY -u PREFECT_API_AUTH_STRING -u PREFECT_PROFILE -u PREFECT_PROFILES_PATH \
	-u ROWSHOT_ANYCAP -u ANYCAP_API_KEY DO_NOT_TRACK=1

.DEFAULT_GOAL := help
.PHONY: help pictures demo test test-fast test-browser crashtest test-directus test-server test-all lint format types bench bench-large charts constraints clean setup-run setup-dev setup-all

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
	@$(PYTEST) $(TOGETHER) --ignore=tests/browser --ignore=tests/directus --ignore=tests/server

test-fast: setup-dev ## run the tests that need no server, in seconds
	@$(PYTEST) $(TOGETHER) --ignore=tests/browser --ignore=tests/directus --ignore=tests/server --ignore=tests/flows --ignore=tests/crash --ignore=tests/delivery

crashtest: setup-dev ## kill runs at 20 moments; ROWSHOT_CRASH_SEED=N repeats those of an earlier time
	@ROWSHOT_CRASH_MOMENTS=$${ROWSHOT_CRASH_MOMENTS:-20} ROWSHOT_CRASH_AWAY_S=60 $(PYTEST) -v -s tests/crash

test-browser: setup-all ## run the tests that need Chromium
	@command -v chromium >/dev/null || { echo "Chromium is missing. On Debian: apt-get install chromium fonts-nanum" >&2; exit 1; }
	@$(PYTEST) tests/browser

pictures: setup-all ## take the pictures of docs/pictures anew, in Chromium, and look at them afterwards
	@ROWSHOT_PICTURES=docs/pictures $(PYTEST) tests/browser/test_server_ui.py

test-directus: setup-dev ## run the tests that need a real CMS; the first time it takes minutes to install
	@echo "Directus is kept in ~/.cache/rowshot; the first time npm takes about 4 minutes to fetch it."
	@$(PYTEST) tests/directus

test-server: setup-all ## run the tests of the large server, which need the system's PostgreSQL
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || \
		{ echo "PostgreSQL is missing. On Debian: apt-get install postgresql" >&2; exit 1; }
	@$(PYTEST) tests/server

test-all: test test-browser test-directus test-server ## run every test; needs system packages and says which are missing

lint: setup-dev ## check style and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || { echo "Not formatted; mend it with: make format" >&2; exit 1; }

format: setup-dev ## format the code, and mend what ruff can mend
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

types: setup-all ## check the types
	@$(BIN)/mypy

bench: setup-dev ## measure what one machine does, in about 30 minutes; KEEP=--keep writes benchmarks/results
	@for one in plan_and_start ways_to_map ten_thousand_rows start shared_limit; do \
		echo "== $$one"; \
		case $$one in plan_and_start) keep= ;; *) keep="$(KEEP)" ;; esac; \
		$(BIN)/python benchmarks/$$one.py $$keep || exit 1; \
	done

# FOLDER must be open to the user postgres where root runs this; ended at any time, the same command goes on.
bench-large: setup-all ## measure 1,000, 10,000 and 100,000 rows on PostgreSQL and Redis; it may take hours, and can be resumed
	@test -n "$(FOLDER)" || { echo "Name where to keep what it has done so far: make bench-large FOLDER=..." >&2; exit 1; }
	@$(BIN)/python benchmarks/hundred_thousand_rows.py --folder "$(FOLDER)" $(KEEP)

charts: setup-dev ## write the tables and charts of the docs, from benchmarks/results
	@$(BIN)/python benchmarks/charts.py && $(BIN)/python benchmarks/tables.py

constraints: ## resolve the newest versions that fit pyproject.toml into constraints.txt
	@echo "Resolving into a fresh environment (a minute or two) ..."
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && $(PYTHON) -m venv "$$fresh" && \
		"$$fresh/bin/python" -m pip install -qq --disable-pip-version-check -e '.[all]' && \
		{ echo "# The versions that the tests ran with. Made by: make constraints"; \
		  "$$fresh/bin/python" -m pip freeze --quiet --exclude-editable | grep -E '^[A-Za-z0-9._-]+==' ; } > "$$fresh/constraints.txt" && \
		cp "$$fresh/constraints.txt" constraints.txt

clean: ## remove what make and the demo have made
	@rm -rf .venv .parts .demo build dist .mypy_cache .ruff_cache .pytest_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

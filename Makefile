# Everything a developer does. Each target first sets up a virtual environment in .venv, from wheels only, at the
# versions of constraints.txt: once, and again when pyproject.toml or constraints.txt change.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-faults test-cluster bench bench-recognition bench-large bench-scale calibrate check types fuzz soak audit format nightly history notebooks docs package reference constraints clean

# The first Python that songprint supports; `make PYTHON=/path/to/python3.12 …` chooses another.
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,\
	$(if $(shell $(name) -c '$(SUPPORTED)' >/dev/null 2>&1 && echo yes),$(name))))

SIZES ?= 1,10,100,400

BIN := .venv/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-input --only-binary=:all: -c constraints.txt

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

demo: .venv/run.stamp ## make a small library, index it, identify noisy clips, show the result
	@$(BIN)/songprint demo

test: check ## everything that must pass before a change is merged: check, then all tests and doctests
	@$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-faults: .venv/dev.stamp ## let each call of each job fail, cut the power at each moment, fail each request, kill jobs, run five at once (hours)
	@FAULTS=all KILLS=200 TRAFFIC_S=180 $(BIN)/python -m pytest --timeout=3600 tests/test_faults.py tests/test_commit_model.py \
		tests/test_bad_object_store.py

test-cluster: .venv/dev.stamp ## index while workers are killed at random, and compare: make test-cluster MUSIC=folder
	@$(BIN)/python -m benchmarks.faults $(MUSIC)

bench: .venv/dev.stamp ## measure costs beside ffmpeg, fpcalc and DuckDB, and compare with the targets: make bench MUSIC=folder SIZES=1,10
	@[ -n "$(MUSIC)" ] || { echo "make: name a folder of music, an hour or more: make bench MUSIC=folder"; exit 2; }
	@$(BIN)/python -m benchmarks.indexing $(MUSIC)
	@$(BIN)/python -m benchmarks.querying $(MUSIC) --sizes $(SIZES)

bench-recognition: .venv/dev.stamp ## measure how many clips of a benchmark set are named rightly: make bench-recognition SET=folder [TIMES=10]
	@$(BIN)/python -m benchmarks.recognition $(SET) $(if $(TIMES),--times $(TIMES) --workers 4)

bench-large: .venv/dev.stamp ## a set's clips in its library alone and in a large one: make bench-large SET=folder [SONGS=100000]
	@[ -n "$(SET)" ] || { echo "make: name a benchmark set: make bench-large SET=folder"; exit 2; }
	@$(BIN)/python -m benchmarks.large $(SET) --songs $(or $(SONGS),100000) $(if $(KEEP),--keep $(KEEP)) $(if $(HIDDEN),--hidden $(HIDDEN))

calibrate: .venv/dev.stamp ## fit the confidence again: make calibrate SETS="folder folder" UNSEEN=folder
	@$(BIN)/python -m benchmarks.calibrate $(SETS) $(if $(UNSEEN),--unseen $(UNSEEN))

bench-scale: .venv/dev.stamp ## measure the model of docs/SCALE.md: make bench-scale LIKE=store CLIPS=folder
	@$(BIN)/python -m benchmarks.scale $(if $(LIKE),--like $(LIKE)) $(if $(CLIPS),--clips $(CLIPS))

check: .venv/dev.stamp ## the quick half of make test: formatting, lint, types
	@$(BIN)/ruff format --check --quiet . || { echo "make: some files are not formatted; run: make format"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy

types: .venv/types.stamp ## check the programs of the documents with pyright, in strict mode, as their readers' editors do
	@$(BIN)/python -m tests.types_of_documents

fuzz: .venv/fuzz.stamp ## fuzz the parsers, guided by coverage; decode damaged files: make fuzz N=20000 SECONDS=600
	@$(BIN)/python -m tests.fuzz_parsers $(or $(SECONDS),60)
	@$(BIN)/python -m tests.fuzz_audio $(or $(N),2000)

audit: .venv/audit.stamp ## look for known weaknesses in constraints.txt, in PyPI's advisories over the network
	@mkdir -p build
	@if .venv/audit/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off -r constraints.txt > build/audit.txt 2>&1; \
	then tail -n 1 build/audit.txt; \
	elif grep -qE '^(ERROR:|[A-Za-z_.]+Error: )' build/audit.txt; \
	then echo "make: nothing is known of the versions in constraints.txt: PyPI's advisories could not be reached" \
		"($$(grep -E '^(ERROR:|[A-Za-z_.]+Error: )' build/audit.txt | tail -n 1 | cut -c 1-200)); the rest is in build/audit.txt"; exit 1; \
	else cat build/audit.txt; echo "make: some versions in constraints.txt have known weaknesses (above)"; exit 1; fi

nightly: .venv/dev.stamp ## change a folder and index it, night after night, against a store made anew: make nightly NIGHTS=300
	@$(BIN)/python -m tests.nightly $(or $(NIGHTS),100) $(or $(SEED),1)

history: .venv/dev.stamp ## thousands of small commits and years of nights, in the small; fail if anything grows: make history COMMITS=5000 NIGHTS=730
	@$(BIN)/python -m tests.long_history $(or $(COMMITS),5000) $(or $(NIGHTS),730)

soak: .venv/dev.stamp ## index, identify, remove and compact in a loop, and fail if memory or files grow: make soak MINUTES=30
	@$(BIN)/python -m tests.soak $(or $(MINUTES),30)

format: .venv/dev.stamp ## format the code
	@$(BIN)/ruff check --quiet --fix . ; $(BIN)/ruff format .

notebooks: .venv/dev.stamp ## run every notebook from top to bottom and save its pictures
	@$(BIN)/jupyter execute --inplace --NotebookClient.record_timing=False notebooks/*.ipynb

docs: .venv/dev.stamp ## build the web site of the documents in build/site; a link or a name that leads nowhere is an error
	@$(BIN)/python -m docs.site

package: .venv/run.stamp ## build dist/, install the wheel into an empty environment, run the demo there: make package [PYTHON=python3.12]
	@rm -rf dist build/package
	@$(BIN)/python -c "from setuptools import build_meta; build_meta.build_sdist('dist')" > /dev/null
	@$(BIN)/python -m pip wheel -qq --disable-pip-version-check --no-deps --no-build-isolation -w dist dist/songprint-*.tar.gz
	@$(PYTHON) -m venv build/package
	@build/package/bin/python -m pip install -qq --disable-pip-version-check --no-input --only-binary=:all: -c constraints.txt dist/songprint-*.whl
	@folder=$$(mktemp -d) && bin=$$PWD/build/package/bin && cd $$folder && $$bin/songprint demo && rm -r $$folder
	@ls -l dist

reference: .venv/dev.stamp ## write the pages and pictures of docs/ that come from the code
	@$(BIN)/python -m docs.architecture
	@$(BIN)/python -m docs.pictures

constraints: ## take the newest versions of everything into constraints.txt (then: make test)
	@rm -rf build/newest && $(PYTHON) -m venv build/newest
	@build/newest/bin/python -m pip install -qq --upgrade pip
	@build/newest/bin/python -m pip install -qq --only-binary=:all: --group build --group dev --group types '.[dashboard,evaluation,gcs,microphone,notebooks,s3,slurm,sql]'
	@{ head -n 1 constraints.txt; build/newest/bin/python -m pip freeze --all --exclude songprint; } > build/newest.txt
	@mv build/newest.txt constraints.txt && git diff --stat constraints.txt

clean: ## remove the environment, caches and the demo's files
	@rm -rf .venv build demo *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/fuzz.stamp: .venv/dev.stamp
	@$(PIP) --group fuzz || { echo "make: pip could not install atheris (its reason is above); it has wheels for Linux on" \
		"x86-64 only. Without it: .venv/bin/python -m tests.fuzz_audio 2000"; exit 1; }
	@touch $@

.venv/types.stamp: .venv/dev.stamp
	@$(PIP) --group types
	@touch $@

# In an environment of its own: it installs thirty packages.
.venv/audit.stamp: .venv/run.stamp
	@$(PYTHON) -m venv .venv/audit && .venv/audit/bin/python -m pip install -qq --disable-pip-version-check --no-input \
		--only-binary=:all: pip-audit || { echo "make: pip could not install pip-audit (its reason is above)"; exit 1; }
	@touch $@

.venv/run.stamp: pyproject.toml constraints.txt
	@[ -n "$(PYTHON)" ] || { echo "make: songprint needs Python 3.11, 3.12 or 3.13, and none is on the PATH;" \
		"name one: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c '$(SUPPORTED)' || { echo "make: $(PYTHON) is not Python 3.11, 3.12 or 3.13"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: this Python cannot make virtual environments;" \
		"on Debian or Ubuntu: apt install python3-venv"; exit 1; }
	@echo "songprint: setting up .venv (once; a minute or two)" >&2
	@$(PYTHON) -m venv --clear .venv
	@$(PIP) pip setuptools || { echo "make: pip could not install the first packages (its reason is above);" \
		"is a package index reachable?"; exit 1; }
	@$(PIP) --no-build-isolation --editable . || { echo "make: pip could not install songprint (its reason is above)"; exit 1; }
	@touch $@

.venv/dev.stamp: .venv/run.stamp
	@echo "songprint: installing the tools that the tests need" >&2
	@$(PIP) --no-build-isolation --group dev --editable '.[s3]' || { echo "make: pip could not install the test tools" \
		"(its reason is above)"; exit 1; }
	@touch $@

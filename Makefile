# The first Python of these that runs; another one: make demo PYTHON=/path/to/python
PYTHON ?= $(shell for each in python3.11 python3; do $$each -c "" 2>/dev/null && { echo $$each; break; }; done)
PY := .venv/bin/python
# What `make bench` measures: labelled posts (with columns split and channel) and their tag tree.
POSTS ?= examples/posts.csv
TAXONOMY ?= taxonomies/weibo.csv
# What the tests need: every backend. EXTRAS=dev does without them; their tests skip and say so.
EXTRAS ?= dev,torch,plot,paddle,yolo,hf,openvino,fastocr
PIP := $(PY) -m pip install --quiet --disable-pip-version-check

.PHONY: help demo test test-all lint bench clean

help:
	@echo "make demo      train and tag on examples/, from nothing (a few minutes, most of it pip)"
	@echo "make test      the tests but for the slow ones, every backend installed (9 GB); without the heavy backends: EXTRAS=dev"
	@echo "make test-all  all tests, and what share of the lines they ran"
	@echo "make lint      ruff (format, lint), mypy, and import-linter (the order of the packages)"
	@echo "make bench     measure the main job; on your posts: POSTS=labelled.csv TAXONOMY=tags.csv"
	@echo "make clean     remove build/ and caches; the virtual environment .venv stays"

demo: .venv/core.stamp
	@WEIBOTAG=.venv/bin/weibotag PYTHON=$(PY) sh examples/demo.sh

test: .venv/dev.stamp
	$(PY) -m pytest -rs -m "not slow" -n auto --maxprocesses 4 --dist loadfile

# Lines that only ran in child processes count as not run: to trace these, too, would slow down what tests of killed processes time.
test-all: .venv/dev.stamp
	$(PY) -m pytest -rs --cov --cov-report=
	@echo "coverage: $$($(PY) -m coverage report --format=total) % of the lines of weibotag/, without what ran in child processes alone"

lint: .venv/dev.stamp
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy weibotag
	.venv/bin/lint-imports

bench: .venv/core.stamp
	$(PY) benchmarks/main_job.py $(POSTS) $(TAXONOMY)

clean:
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage
	find . -name __pycache__ -not -path "./.venv/*" -prune -exec rm -rf {} +

.venv/bin/pip:
	@test -n "$(PYTHON)" || { echo "no python3.11 and no python3 found: install Python 3.11 or newer" >&2; exit 1; }
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || { \
	    echo "$(PYTHON) is $$($(PYTHON) --version), weibotag needs 3.11 or newer: make demo PYTHON=python3.12" >&2; exit 1; }
	@echo "making the virtual environment .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv

# Installed anew when pyproject.toml changes; the code itself is linked (--editable), not copied.
.venv/core.stamp: pyproject.toml | .venv/bin/pip
	@echo "installing weibotag and what it needs into .venv (a minute or two, 1.1 GB) ..."
	@$(PIP) --editable .
	@touch $@

.venv/dev.stamp: pyproject.toml .venv/core.stamp
	@echo "installing what the tests need into .venv ($(EXTRAS)) ..."
	@$(PIP) --editable ".[$(EXTRAS)]"
	@touch $@

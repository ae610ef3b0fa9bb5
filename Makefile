# The first Python of these that runs; another one: make demo PYTHON=/path/to/python
PYTHON ?= $(shell for each in python3.11 python3; do $$each -c "" 2>/dev/null && { echo $$each; break; }; done)
PY := .venv/bin/python
# What `make bench` measures: labelled posts (with columns split and channel) and their tag tree.
POSTS ?= examples/posts.csv
TAXONOMY ?= taxonomies/weibo.csv
# What the tests need: every backend. EXTRAS=dev does without them; their tests skip and say so.
EXTRAS ?= dev,torch,plot,paddle,yolo,hf,openvino
PIP := $(PY) -m pip install --quiet --disable-pip-version-check

.PHONY: help demo test lint bench clean

help:
	@echo "make demo   train and tag on examples/, from nothing (a few minutes, most of it pip)"
	@echo "make test   run all tests, every backend installed (9 GB); without the heavy ones: EXTRAS=dev"
	@echo "make lint   ruff (format, lint) and mypy"
	@echo "make bench  measure the main job; on your posts: POSTS=labelled.csv TAXONOMY=tags.csv"
	@echo "make clean  remove build/ and caches; the virtual environment .venv stays"

demo: .venv/core.stamp
	@WEIBOTAG=.venv/bin/weibotag PYTHON=$(PY) sh examples/demo.sh

test: .venv/dev.stamp
	$(PY) -m pytest -rs

lint: .venv/dev.stamp
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy weibotag

bench: .venv/core.stamp
	$(PY) benchmarks/main_job.py $(POSTS) $(TAXONOMY)

clean:
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis
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

# make install | demo | test | lint    The environment lives in .venv and is rebuilt when its inputs change.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format docs

help:
	@echo "make install   a virtual environment in .venv with everything"
	@echo "make demo      a set of pictures with the built-in model, in out/demo"
	@echo "make test      all tests"
	@echo "make lint      ruff, mypy, and whether the package keeps to its rooms"
	@echo "make docs      the documentation as a site, in out/site; every link is checked"
	@echo "make format    let ruff rewrite the layout"

install: $(STAMP)

# torch goes first, alone: its wheel is large and its version is what the constraint is about.
$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[all,test]"
	@touch $@

demo: install
	$(BIN)/interlace t2i --prompts-file examples/prompts.jsonl --output-dir out/demo
	@echo "Look at out/demo/contact_sheet.jpg; the single pictures lie beside it."

test: install
	scripts/install-chromium
	scripts/install-clients
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist worksteal --reruns 1 -r aR
	@echo "All tests passed."

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy interlace
	$(BIN)/python scripts/check_rooms.py

docs: install
	$(BIN)/python -m interlace.cli.help.reference docs/cli.md
	$(BIN)/mkdocs build --strict --quiet

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

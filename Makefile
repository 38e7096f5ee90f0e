# Two commands need nothing but python3 (>= 3.11), make and a package index: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install demo test test-fast lint notebooks bench clean

install: $(INSTALLED)

$(INSTALLED): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("metapt needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + "; try: make PYTHON=python3.12")'
	@echo "Installing into $(VENV) (once; a few minutes)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip 2> $(VENV)/install.log || (cat $(VENV)/install.log; exit 1)
	@$(BIN)/python -m pip install --quiet --editable '.[dev]' 2>> $(VENV)/install.log || (cat $(VENV)/install.log; exit 1)
	@touch $@

demo: install
	@$(BIN)/metapt run digits_tasks

# `-n 2`: tests compile a lot, and a compiler uses one core.
test: install
	$(BIN)/python -m pytest -n 2 --dist loadgroup

test-fast: install
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow"

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

notebooks: install
	$(BIN)/jupytext --to ipynb notebooks/*.py

# In an environment of its own: PyTorch is large, and one of the peers needs an old pip. Half an hour of one core.
bench:
	@test -x $(VENV)-bench/bin/python || $(PYTHON) -m venv $(VENV)-bench
	@$(VENV)-bench/bin/python -m pip install --quiet 'pip<24.1'
	@$(VENV)-bench/bin/python -m pip install --quiet --editable '.[bench]'
	$(VENV)-bench/bin/python -m benchmarks.run

clean:
	rm -rf $(VENV) $(VENV)-bench build *.egg-info .pytest_cache .ruff_cache

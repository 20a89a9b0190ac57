# make demo | test | lab | kernel | dashboard. Needs Python 3.11 or newer as $(PYTHON), and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# threads that spin long while they wait make each step many times slower where other processes use the cores too
export GOMP_SPINCOUNT ?= 1000
SOURCES := $(wildcard lfkit/*.py lfkit/weights/* notebooks/*.ipynb) scripts/demo.py

.PHONY: help setup demo test lab kernel dashboard notebooks
help:
	@sed -n 1p Makefile

# visdom 0.2.4 is built from source and needs pkg_resources, which setuptools 82 dropped: hence no build isolation
$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lfkit needs Python 3.11 or newer; got " + sys.version.split()[0] + ": make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "setuptools<81" wheel
	$(BIN)/python -m pip install --quiet --no-build-isolation -e ".[test]"
	@touch $@

setup: $(VENV)/.installed

runs/demo/.done: $(VENV)/.installed $(SOURCES)
	$(BIN)/python scripts/demo.py

demo: runs/demo/.done
	@echo "executed notebooks, checkpoint and pictures: runs/demo"; cat runs/demo/table.txt

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal --doctest-modules lfkit tests
	$(BIN)/python -m pytest --nbval-lax --nbval-current-env notebooks

lab: $(VENV)/.installed
	$(BIN)/jupyter lab --ip 127.0.0.1 $(if $(filter 0,$(shell id -u)),--allow-root) notebooks

kernel: $(VENV)/.installed
	$(BIN)/python -m ipykernel install --user --name lfkit --display-name "Python (lfkit)"

# the page's scripts come through npm, once; without it the page is blank, and the rest works
dashboard: $(VENV)/.installed
	$(BIN)/python -m lfkit dashboard

# runs the notebooks anew and stores their outputs in them; for those who change lfkit or a notebook
notebooks: $(VENV)/.installed
	$(BIN)/python scripts/demo.py --store

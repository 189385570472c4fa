# Two commands on a fresh machine: `make parity` compares, `make test` tests. Both set up .venv first.

PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
ARGS ?=

.PHONY: parity test lint smoke clean

parity: $(VENV)/.installed
	$(RUN) run_parity.py $(ARGS)

test: lint
	$(RUN) -m pytest

lint: $(VENV)/.installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

smoke: $(VENV)/.installed
	$(RUN) run_parity.py --preset smoke $(ARGS)

clean:
	rm -rf $(VENV)

# The stamp is newer than what it was made from, so a changed requirement is installed again.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[all]'
	touch $@

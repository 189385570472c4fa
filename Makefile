# Two commands on a fresh machine: `make parity` compares, `make test` runs the fast tests. Both set up what they need
# first. `make test-all` runs every test.

PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
ARGS ?=

# With an NVIDIA GPU each framework has an environment of its own: their CUDA wheels bring different builds of cuDNN, which
# would overwrite each other in one.
GPU := $(shell command -v nvidia-smi)

.PHONY: parity test test-all lint smoke clean

ifdef GPU
parity: $(VENV)-tf/.installed $(VENV)-torch/.installed
	$(VENV)-torch/bin/python run_parity.py \
	    --tf-python $(VENV)-tf/bin/python --torch-python $(VENV)-torch/bin/python $(ARGS)
else
parity: $(VENV)/.installed
	$(RUN) run_parity.py $(ARGS)
endif

# Each framework in a process of its own, at most as many at a time as there are cores.
TEST = $(RUN) -m pytest --numprocesses auto --dist loadgroup

test: lint
	$(TEST) -m 'not slow'

test-all: lint
	$(TEST) --hypothesis-profile ci

lint: $(VENV)/.installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

smoke: $(VENV)/.installed
	$(RUN) run_parity.py --preset smoke $(ARGS)

clean:
	rm -rf $(VENV) $(VENV)-tf $(VENV)-torch

# A stamp is newer than what it was made from, so a changed requirement is installed again.
$(VENV)/.installed: EXTRAS = all
$(VENV)-tf/.installed: EXTRAS = tensorflow-gpu
$(VENV)-torch/.installed: EXTRAS = torch,report
$(VENV)/.installed $(VENV)-tf/.installed $(VENV)-torch/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@

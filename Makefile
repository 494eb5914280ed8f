# make demo | make test : everything from nothing, safe to repeat.
# TORCH and PIP_ARGS choose the PyTorch build, for instance
#   make demo TORCH=torch PIP_ARGS="--index-url URL-of-a-wheel-index"

PYTHON   ?= python3
TORCH    ?= torch==2.13.0
PIP_ARGS ?=
VENV     ?= .venv
RUN       = $(VENV)/bin/python
STAMP     = $(VENV)/.installed

export OMP_NUM_THREADS ?= 1

.PHONY: demo test lint hosts browser clean
.DEFAULT_GOAL := demo

$(STAMP): requirements.txt training/requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -q $(PIP_ARGS) "$(TORCH)"
	$(RUN) -m pip install -q -r requirements.txt -r training/requirements.txt -e ".[dev]"
	touch $@

demo: $(STAMP)
	$(RUN) -m training.shapes.demo

test: $(STAMP)
	$(RUN) -m pytest

lint: $(STAMP)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

hosts:
	TORCH="$(TORCH)" PIP_ARGS="$(PIP_ARGS)" $(PYTHON) scripts/hosts.py

browser:
	$(PYTHON) scripts/browser.py

clean:
	rm -rf $(VENV) build *.egg-info

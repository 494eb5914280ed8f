# `make help` lists what there is; everything starts from nothing and is safe to repeat.
# TORCH and PIP_ARGS choose the PyTorch build, for instance the far smaller one for CPUs:
#   make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON   ?= python3
TORCH    ?= torch==2.13.0
PIP_ARGS ?=
VENV     ?= .venv
BENCH    ?= adapter memory path convert load sampler train prepare
TESTS    ?=
WORKERS  ?= 2
RUN       = $(VENV)/bin/python
STAMP     = $(VENV)/.installed

export OMP_NUM_THREADS ?= 1

.PHONY: help demo evaluate test lint types bench corpus hosts browser clean
.DEFAULT_GOAL := demo

help:     ## this list
	@sed -n 's/^\([a-z]*\): .*## \(.*\)/make \1\t\2/p' Makefile | expand -t 16

$(STAMP): requirements.txt training/requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -q $(PIP_ARGS) "$(TORCH)"
	$(RUN) -m pip install -q -r requirements.txt -r training/requirements.txt -e ".[dev]"
	touch $@

demo: $(STAMP)     ## 4 steps with both experts beside 50 of the teacher: videos, a sheet and a table in runs/demo
	$(RUN) -m training.shapes.demo

evaluate: $(STAMP)     ## the table of Shapes, and more of the same: report, plot, contact sheet and A/B page in runs/evaluation
	$(RUN) training/evaluate.py --html

test: $(STAMP)     ## all tests, WORKERS=2 at a time, or those of TESTS="tests/dcm_core"; skipped ones are told at the end
	$(RUN) -m pytest -n $(WORKERS) $(TESTS)

lint: $(STAMP)     ## ruff's check and format, and the type checker
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m basedpyright

types: $(STAMP)     ## the type checker alone
	$(RUN) -m basedpyright

bench: $(STAMP)     ## write benchmarks/results anew, in an hour or two and without a GPU; BENCH="path load" takes some
	set -e; for name in $(BENCH); do $(RUN) benchmarks/$$name.py; done

corpus: $(STAMP)     ## 188 real clips with captions in runs/corpus, to try training/prepare.py on
	$(RUN) scripts/corpus.py

hosts:     ## an environment for each ComfyUI of COMFYUI_PATH, which is itself only read; for the tests in it
	TORCH="$(TORCH)" PIP_ARGS="$(PIP_ARGS)" $(PYTHON) scripts/hosts.py

browser:     ## what the tests in a browser need
	$(PYTHON) scripts/browser.py

clean:     ## remove the environment and what was built
	rm -rf $(VENV) build *.egg-info

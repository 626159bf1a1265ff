# Everything runs in .venv, which the first target that needs it makes; see `make help`.

PYTHON ?= python3
# Which build of torch: auto (a CUDA build only where there is an NVIDIA device), cpu, cuda, or requirements of your own.
TORCH ?= auto
# A package index that holds that build, where pip's own has another.
TORCH_INDEX ?=
# Handed on to pytest, e.g. make test ARGS="-k decode -x"
ARGS ?=

# Of the test matrix; all without.
VARIANTS ?=

BIN := .venv/bin
INSTALL := $(PYTHON) .ci/install.py --torch "$(TORCH)" --torch-index "$(TORCH_INDEX)"

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-matrix fuzz kills check format docs bench learn clean

help:  ## Show this list
	@echo "make TARGET [TORCH=auto|cpu|cuda|\"torch==… torchvision==… torchaudio==…\"] [TORCH_INDEX=URL] [PYTHON=python3]"
	@sed -n 's/^\([a-z-]*\):[^#]*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup:  ## Make .venv and install what the tests ran with (quick when nothing changed)
	@$(INSTALL)

quickstart: setup  ## Run the whole workflow at small scale on synthetic data, on the CPU
	@$(BIN)/trichord quickstart

# Compiled modules are kept whatever the machine's setting: hundreds of processes of the tests import the same ones.
test: setup  ## Run the whole test suite
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n $$(($$(nproc) + 2)) --dist loadfile --no-loadscope-reorder $(ARGS)  # two more: tests of jobs mostly wait

test-matrix:  ## Run the suite as on other machines (hours); VARIANTS="avx2 user"
	@$(INSTALL) --extras dev,bench
	@$(PYTHON) .ci/matrix.py --torch "$(TORCH)" --variants "$(VARIANTS)" $(ARGS)

fuzz: setup  ## Damage what comes from outside at random for 10 minutes and use it; ARGS="--minutes 60 --seed 1"
	@$(BIN)/python -m tests.fuzzing $(ARGS)

kills: setup  ## Kill commands 200 times at any moment, and compare what they write in the end; ARGS="--kills 50 --seed 1"
	@$(BIN)/python -m tests.kills $(ARGS)

check: setup  ## Lint, formatting, strict types, links and commands of the documentation
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/test_docs.py -k "not blocks"

format: setup  ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

docs:  ## Build the documentation into site/ and check its links
	@$(INSTALL) --extras dev,docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -d site

reference: setup  ## Write docs/configuration.md anew from the docstrings of the settings
	@$(BIN)/python -m trichord.launch.reference docs/configuration.md

bench:  ## Measure reading, decoding, backbones and a training step beside other tools
	@$(INSTALL) --extras dev,bench
	@$(BIN)/python -m benchmarks reading runs/bench
	@$(BIN)/python -m benchmarks models
	@$(BIN)/python -m benchmarks growth
	@$(BIN)/python -m benchmarks step
	@$(BIN)/python -m benchmarks scan
	@$(BIN)/python -m benchmarks contrast
	@$(BIN)/python -m benchmarks contrast --memory
	@$(BIN)/python -m benchmarks clustering

learn:  ## Train on the synthetic data set and measure what was learnt (hours)
	@$(INSTALL)
	@$(BIN)/python -m benchmarks learning --objective svt
	@$(BIN)/python -m benchmarks learning --objective av_prototypes --out runs/av-learning
	@$(BIN)/python -m benchmarks learning --objective video_text --out runs/video-text
	@$(BIN)/python -m benchmarks learning --objective charades --out runs/heads
	@$(BIN)/python -m benchmarks learning --objective captions --out runs/heads

clean:  ## Remove .venv and what runs left behind
	rm -rf .venv build site quickstart *.egg-info .mypy_cache .ruff_cache .pytest_cache

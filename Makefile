# The commands of this project. Each installs what it needs into .venv first.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?= pretrainer=vae optim=adam

.PHONY: run test test-full browser test-lowest torture check bench results docs docs-pictures clean

run: .venv/run            ## the default experiment, or ARGS="..."
	$(BIN)/python -m sft_exp $(ARGS)

# a file's tests run in one process, so that what they share is made once
test: .venv/test          ## the tests, minutes on two cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# what a test skips without an extra is run here, too
test-full: $(addprefix .venv/,test serve weights optimizers tensorboard mlflow docs)  ## with the slow ones, and all extras
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "slow or not slow" --timeout 3600

browser:                  ## the browser of the slow tests of pages; Debian, as root
	apt-get install --yes --no-install-recommends chromium-headless-shell

test-lowest:              ## the tests with the oldest versions that pyproject.toml allows, in .venv-lowest
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --editable ".[test]" --constraint constraints-lowest.txt
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -n 2 --dist loadfile

torture: .venv/test         ## kills, flips, fuzz and combinations of options at random, hours; SHARE=0.05 SEED=7 KINDS="flips fuzz"
	OMP_NUM_THREADS=1 SHARE=$(or $(SHARE),1) $(if $(SEED),SEED=$(SEED)) $(BIN)/python -m tests.torture $(KINDS)

check: .venv/dev          ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: .venv/test         ## measured side by side with what it is compared to
	$(BIN)/python -m benchmarks

docs: .venv/docs          ## the documentation as a site, in outputs/site
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

docs-pictures: .venv/test ## the pictures of README and docs, by the commands that the pages show; needs make browser and tmux
	$(BIN)/python docs/pictures.py $(NAMES)

results: .venv/test       ## the reports in docs/results and README's table of them, or NAMES="mnist"; hours on two cores
	$(BIN)/python -m benchmarks.results $(NAMES)

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/run: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/%: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	touch $@

clean:                    ## the environment; results in outputs/ stay
	rm -rf .venv build *.egg-info

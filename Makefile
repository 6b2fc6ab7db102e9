# `make` prints the targets. The first run of any of them makes .venv; a changed setup.cfg or constraints.txt renews it.

PYTHON ?= python3
WORKERS ?= 2
OUT ?= runs/digits

VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
DEMO := $(VENV)/.installed-demo
DEV := $(VENV)/.installed-dev
PYTEST := $(BIN)/python -m pytest
# A worker that has done its half takes tests from the other's.
SHARED := -n $(WORKERS) --dist worksteal
BENCH := $(VENV)/bench

export MPLBACKEND ?= Agg
# Threads that wait for each other spin a little, then sleep: on a busy machine ones that spin on
# for milliseconds, the default, slow a training run many times.
export GOMP_SPINCOUNT ?= 10000

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test test-slow test-nightly test-all check format-check lint types layers doctest docs dist-check format bench bench-quick clean distclean

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(DEMO)  ## train on real images, sample with several solvers, write pictures and a table to runs/digits
	$(BIN)/python examples/train_vp.py --out '$(OUT)'
	@printf '\nThe results are in %s:\n' '$(OUT)' && ls '$(OUT)'

test: $(DEV)  ## the default tests, some ten minutes on two cores
	$(PYTEST) $(SHARED) -m 'not slow' tests

# pytest ends with 5 when nothing is marked slow: not a failure.
test-slow: $(DEV)  ## the tests marked slow, less those marked nightly
	$(PYTEST) $(SHARED) -m 'slow and not nightly' tests || [ $$? -eq 5 ]

test-nightly: $(DEV)  ## the tests marked nightly: guards of the tests themselves, many kills, long trainings
	$(PYTEST) $(SHARED) -m nightly tests || [ $$? -eq 5 ]

test-all: test test-slow test-nightly  ## every test

check: format-check lint types layers doctest docs test-slow test  ## format, lint, types, import layers, doctests, site, every test but the nightly ones

format-check: $(DEV)  ## is the code formatted?
	$(BIN)/ruff format --check .

lint: $(DEV)  ## ruff's rules
	$(BIN)/ruff check .

types: $(DEV)  ## mypy, strict, on the package
	$(BIN)/mypy --strict scoresde

layers: $(DEV)  ## does every module import only from below?
	$(PYTEST) -q tests/test_layers.py

doctest: $(DEV)  ## run the examples of the docstrings
	$(PYTEST) -q $(SHARED) --doctest-modules scoresde

docs: $(DEV)  ## build the site of the documentation into site/; a warning or a broken link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict  # --quiet would hide the warnings

# The environment holds the wheel, and of .venv the dependencies alone: a folder that a .pth file adds has its own .pth files
# passed over, and with them the link to this checkout.
dist-check: $(DEV)  ## build sdist and wheel, install the wheel into an empty environment, run its help and the README there
	rm -rf dist build/empty
	$(BIN)/python -m build
	$(BIN)/python -m venv --without-pip build/empty
	env -u PYTHONPATH $(BIN)/python -m pip --disable-pip-version-check --python build/empty/bin/python install --no-deps dist/*.whl
	$(BIN)/python -c 'import sysconfig as s; print(s.get_path("purelib"))' \
	    > "$$(build/empty/bin/python -c 'import sysconfig as s; print(s.get_path("purelib"))')/dependencies.pth"
	.ci/wheel build/empty/bin

format: $(DEV)  ## format, and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(BENCH)/.installed  ## all benchmarks, beside the peers; tables and plots in benchmarks/results
	$(BENCH)/bin/python benchmarks/solvers.py
	$(BENCH)/bin/python benchmarks/choosing.py
	$(BENCH)/bin/python benchmarks/orders.py
	$(BENCH)/bin/python benchmarks/calibrated.py
	$(BENCH)/bin/python benchmarks/likelihood.py
	$(BENCH)/bin/python benchmarks/noise.py
	$(BENCH)/bin/python benchmarks/trained.py
	$(BENCH)/bin/python benchmarks/overhead.py
	$(BENCH)/bin/python -m benchmarks.history

bench-quick: $(BENCH)/.installed  ## the same with fewer problems, steps and rounds, in three minutes
	$(BENCH)/bin/python benchmarks/solvers.py --quick
	$(BENCH)/bin/python benchmarks/orders.py --quick
	$(BENCH)/bin/python benchmarks/overhead.py --threads 1 --rounds 3 --nets mlp --stem overhead-quick

clean:  ## remove caches and build artefacts; results in runs/ stay
	rm -rf build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean  ## clean, and remove .venv
	rm -rf $(VENV)

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo 'scoresde needs Python 3.10 or newer: make PYTHON=/path/to/python3 ...' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(DEMO): setup.cfg constraints.txt | $(BIN)/pip
	$(INSTALL) -e '.[cli,train,data]'
	@touch $@

# The extra `dev` holds `train` and `data`, so the demo is ready as well.
$(DEV): setup.cfg constraints.txt | $(BIN)/pip
	$(INSTALL) -e '.[dev]'
	@touch $(DEMO) $@

# In an environment of their own: azula, k-diffusion and deepinv would pull torchvision, and with it another torch.
$(BENCH)/.installed: setup.cfg constraints.txt
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[cli,train,data]' \
	    diffusers==0.42.1 torchdiffeq==0.2.5 torchsde==0.2.6
	$(BENCH)/bin/python -m pip install --disable-pip-version-check --no-deps \
	    azula==0.11.1 k-diffusion==0.1.1.post1 einops zuko==1.6.0 \
	    denoising-diffusion-pytorch==2.3.4 ema-pytorch==0.8.3 \
	    deepinv==0.5.0 flow_matching==1.0.10 torchcfm==1.0.7 \
	    sbi==0.27.0 nflows==0.14 skorch==1.4.0 UMNN==1.71 tabulate==0.10.0 guided-diffusion-sdk==1.0.0 blobfile==3.3.0
	$(BENCH)/bin/python -m pip install --disable-pip-version-check --no-deps --target $(BENCH)/older/deepinv-0.4.2 deepinv==0.4.2
	@touch $@

# setup demo test bench: each does all it needs on a fresh Debian or Ubuntu machine with make and Python >= 3.11.
PYTHON ?= python3
VENV   ?= .venv
# Named exactly, because a plain "torch" may pull gigabytes of CUDA libraries; any torch >= 2.6 works.
TORCH  ?= torch==2.13.0
PIP    := $(VENV)/bin/pip install --quiet --disable-pip-version-check

.PHONY: setup demo test bench browser clean

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "memberscope needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "Python's venv module is missing; install it with: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml | $(VENV)/bin/pip
	$(PIP) $(TORCH) -e '.[torch,analysis]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/pip
	$(PIP) $(TORCH) -e '.[torch,parquet,analysis,dp,ray,dev]'
	@touch $@ $(VENV)/.run

setup: $(VENV)/.dev

demo: $(VENV)/.run
	$(VENV)/bin/memberscope demo --out runs/demo

# Some tests drive a browser: installed where that is allowed, else those tests skip and say so.
browser:
	@command -v chromium >/dev/null 2>&1 || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 && \
	  apt-get update -qq >/dev/null 2>&1 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null 2>&1; } || \
	  echo "no Chromium here and it cannot be installed: browser tests will be skipped"

# One thread a process: two workers whose thread pools fight are slower than one.
test: setup browser
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(VENV)/bin/pytest -q -n 2 --dist worksteal --durations=15

# All of it takes about an hour on two idle cores; ARGS=--quick about eight minutes. Other packages get environments of
# their own under runs/rivals; the audit at full size writes 26 GB under runs/streaming.
bench: setup
	for model in fcn cnn resnet densenet; do \
	  OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/pool_training.py --model $$model $(ARGS) || exit 1; done
	OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/scoring.py $(ARGS)
	OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/streaming.py $(ARGS)
	OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/engines.py $(ARGS)
	[ ! -d runs/location30/signals ] || OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/few_references.py runs/location30 $(ARGS)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache

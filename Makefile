# Every target builds what it needs: `make demo` on a fresh machine is enough, and so is `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Of 17,000 modules that come along a fifth is ever imported, and compiled then, and only once.
# Torch comes by pip, whose settings may name a build for processors, and the rest by uv, which knows none of them and takes
# a quarter of the time; where there is no uv, pip brings all.
PIP := $(BIN)/pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt
define install
test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
$(PIP) --no-deps $$(grep ^torch= constraints.txt)
$(PIP) uv && $(UV) --editable '.[$(1)]' || $(PIP) --editable '.[$(1)]'
touch $@
endef
export PYTHONDONTWRITEBYTECODE :=

# A process for each core, with one thread each; a file of tests stays in one of them, so that what its tests share is made
# once; the variable lets scikit-learn's checks of its array interface run.
PYTEST := OMP_NUM_THREADS=1 SCIPY_ARRAY_API=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

.PHONY: demo test tests test-all lint bench docs clean

demo: $(VENV)/.demo  ## learn to learn on the built-in glyphs, and show what unlabelled images are worth
	$(BIN)/onelook demo --out runs/demo

test: $(VENV)/.dev  ## offline, without a GPU, in a few minutes
	$(MAKE) --jobs 2 lint tests  # mypy has use for one core only

tests: $(VENV)/.dev
	$(PYTEST)

test-all: lint $(VENV)/.dev  ## with the slow tests and, where the image sets are, the real-data tests
	$(PYTEST) -m "slow or realdata or not slow" --hypothesis-profile thorough

lint: $(VENV)/.dev
	$(BIN)/ruff check src tests benchmarks docs
	$(BIN)/ruff format --check src tests benchmarks docs
	$(BIN)/mypy

bench: $(VENV)/.dev  ## the speed figures of docs/benchmarks.md
	$(BIN)/python benchmarks/speed.py --json benchmarks/speed.json
	$(BIN)/python benchmarks/large_images.py --json benchmarks/large_images.json

docs: $(VENV)/.dev  ## the generated pages
	$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) runs

$(VENV)/.demo: pyproject.toml constraints.txt
	$(call install,demo)

$(VENV)/.dev: pyproject.toml constraints.txt
	$(call install,dev)

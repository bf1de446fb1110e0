# Each target works as the first command on a bare clone: it makes the environment it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export HF_HUB_DISABLE_TELEMETRY = 1
export TOKENIZERS_PARALLELISM = false

.PHONY: demo test check format clean

# torch has no CPU-only pin in its metadata: constraints.txt keeps a CUDA build of several GB out.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test,dev,eval,gguf]"
	touch $@

demo: $(VENV)/installed
	$(BIN)/holdfast demo

# Two processes of one thread each: these rooms in one, everything else in the other.
HALF := tests/gradients tests/models tests/restoration tests/geometry tests/organism tests/selection
PYTEST = OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 $(BIN)/python -m pytest

test: $(VENV)/installed-dev
	@$(PYTEST) $(HALF) > $(VENV)/half.log 2>&1 & half=$$!; \
	$(PYTEST) $(addprefix --ignore=,$(HALF)); rest=$$?; \
	wait $$half || rest=1; cat $(VENV)/half.log; exit $$rest

check: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist src/*.egg-info

# Each target works as the first command on a bare clone: it makes the environment it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export HF_HUB_DISABLE_TELEMETRY = 1
export TOKENIZERS_PARALLELISM = false

.PHONY: demo test check docs docs-real format clean

# torch has no CPU-only pin in its metadata: constraints.txt keeps a CUDA build of several GB out. --no-compile: of
# what comes along only a part is ever imported, and that part is compiled when it is.
INSTALL = $(PYTHON) -m venv $(VENV) && \
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt

$(VENV)/installed: pyproject.toml constraints.txt
	$(INSTALL) -e .
	touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt
	$(INSTALL) -e ".[test,dev,eval,gguf]"
	touch $(VENV)/installed $@

$(VENV)/installed-docs: pyproject.toml constraints.txt
	$(INSTALL) -e ".[docs]"
	touch $(VENV)/installed $@

demo: $(VENV)/installed
	$(BIN)/holdfast demo

# Processes of one thread each; whichever is idle takes the next file.
PROCESSES ?= 2

test: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 \
	$(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder

check: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# The site, in build/site; no network is used.
docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# The code blocks marked <!-- real -->, on a model and prompt lists of yours: MODEL=folder HOLDFAST_PROMPTS=folder.
docs-real: $(VENV)/installed
	$(BIN)/python -m docs.making.real

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist src/*.egg-info

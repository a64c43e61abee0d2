# One command each: what it needs is installed before it, from the lock files, by .ci/install.py.
VENV   := .venv
BIN    := $(VENV)/bin
# The Python that the environment has; for a new one, or another: make PYTHON=python3.12 run
PYTHON ?= $(or $(wildcard $(BIN)/python),python3)

.PHONY: run test prove cover lint format man audit sbom docs lock clean
.PHONY: install install-dev
.PHONY: chaos chaos-callers chaos-failover chaos-kms-away mutate prove-machine prove-postgres prove-scope
.PHONY: bench bench-audit bench-commands bench-envelope bench-growth bench-kek-faults bench-newcomer bench-remote-kek bench-rewrap bench-rotation bench-scale bench-sealer bench-start bench-verify
.DEFAULT_GOAL := run

INSTALL = command -v "$(PYTHON)" >/dev/null || { echo "custody needs Python 3.11 or newer, and\
 there is no $(PYTHON): install it, or name another, for example make PYTHON=python3.12 run" >&2; exit 1; }; \
 exec "$(PYTHON)" -I .ci/install.py "$(VENV)"

# What `make run` needs.
install:
	@$(INSTALL) run

# That, and what tests and checks need; the clients of every KMS too.
install-dev:
	@$(INSTALL) dev

# Options, for example: make run ARGS="--data /tmp/another --free-ports"
run: install
	@exec "$(BIN)/custody" dev $(ARGS)

# Options, for example: make test ARGS="tests/unit -k tokens"
test: install-dev
	@exec "$(BIN)/python" -m tests $(ARGS)

prove: install-dev
	@exec "$(BIN)/python" -m tests prove $(ARGS)

# Both, and what of the code they reach.
cover: install-dev
	@exec "$(BIN)/python" -m tests cover $(ARGS)

lint: install-dev
	"$(BIN)/ruff" format --check .
	"$(BIN)/ruff" check .
	"$(BIN)/mypy"

# What lint asks for, where it can be done without a thought.
format: install-dev
	"$(BIN)/ruff" check --fix-only .
	"$(BIN)/ruff" format .

# The manual pages in docs/man, of what --help says.
man: install-dev
	@"$(BIN)/python" -m custody.cli.man docs/man

# Known vulnerabilities in what the locks have.
audit:
	@PYTHON="$(PYTHON)" .ci/audit

# What the production lock installs, as every wheel carries it. After `make lock`, and a new version.
sbom:
	@PYTHON="$(PYTHON)" .ci/sbom

# These pages as a site, in dist/site; a warning is an error. To look at it, dist/site/index.html.
docs: install-dev
	@NO_MKDOCS_2_WARNING=1 "$(BIN)/python" -m mkdocs build --quiet --strict --config-file docs/site/mkdocs.yml

# Options, for example: make bench ARGS="--only key --connections 64"
bench: install-dev
	@exec "$(BIN)/python" -m tests.bench $(ARGS)

bench-audit: install-dev
	@exec "$(BIN)/python" -m tests.bench.audit $(ARGS)

bench-commands: install-dev
	@exec "$(BIN)/python" -m tests.bench.commands $(ARGS)

bench-envelope: install-dev
	@exec "$(BIN)/python" -m tests.bench.envelope $(ARGS)

bench-growth: install-dev
	@exec "$(BIN)/python" -m tests.bench.growth $(ARGS)

bench-kek-faults: install-dev
	@exec "$(BIN)/python" -m tests.bench.kek_faults $(ARGS)

bench-newcomer: install-dev
	@exec "$(BIN)/python" -m tests.bench.newcomer $(ARGS)

bench-remote-kek: install-dev
	@exec "$(BIN)/python" -m tests.bench.remote_kek $(ARGS)

bench-rewrap: install-dev
	@exec "$(BIN)/python" -m tests.bench.rewrap $(ARGS)

bench-rotation: install-dev
	@exec "$(BIN)/python" -m tests.bench.rotation $(ARGS)

bench-scale: install-dev
	@exec "$(BIN)/python" -m tests.bench.scale $(ARGS)

bench-sealer: install-dev
	@exec "$(BIN)/python" -m tests.bench.sealer $(ARGS)

bench-start: install-dev
	@exec "$(BIN)/python" -m tests.bench.start $(ARGS)

bench-verify: install-dev
	@exec "$(BIN)/python" -m tests.bench.verify $(ARGS)

chaos-kms-away: install-dev
	@exec "$(BIN)/python" -m tests.bench.kms_away $(ARGS)

chaos-callers: install-dev
	@exec "$(BIN)/python" -m tests.bench.chaos $(ARGS)

# Needs patroni, etcd-server and haproxy of Debian. For example: make chaos-failover ARGS="--count 50"
chaos-failover: install-dev
	@exec "$(BIN)/python" -m tests.bench.failover $(ARGS)

# Faults under load, for example: make chaos ARGS="--only kills --count 500"
chaos: install-dev
	@exec "$(BIN)/python" -m tests.chaos $(ARGS)

# The database's tests on older majors of PostgreSQL, for example: make prove-postgres ARGS="14 17"
prove-postgres: install-dev
	@exec "$(BIN)/python" -m tests.postgres_majors $(ARGS)

# Faults put into the code, one at a time: does a test notice? For example: make mutate ARGS="custody/vault --sample 50"
mutate: install-dev
	@exec "$(BIN)/python" -m tests.mutation $(ARGS)

# Any sequence of requests, re-wraps and faults against a model, for example: make prove-machine ARGS="--minutes 60"
prove-machine: install-dev
	@exec "$(BIN)/python" -m tests.e2e.vault_machine $(ARGS)

prove-scope: install-dev
	@exec "$(BIN)/python" -m tests.bench.prove_scope $(ARGS)

# Everything first, then each part of it at the same releases. No URLs, no names of an index.
# [build-system] in pyproject.toml has the releases of the last one: bring it along by hand.
COMPILE = "$(BIN)/uv" pip compile --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-annotate --no-header --quiet
lock: install-dev
	$(COMPILE) pyproject.toml --upgrade --extra vault --extra aws --extra azure --extra gcp --extra pkcs11 --extra otel --extra dev \
	  --group test --group lint --group docs --group build --group lock --output-file requirements-dev.lock
	$(COMPILE) pyproject.toml --constraint requirements-dev.lock --extra vault --extra aws --extra azure --extra gcp --extra pkcs11 --extra otel \
	  --output-file requirements.lock
	$(COMPILE) pyproject.toml --constraint requirements-dev.lock --extra dev --group build \
	  --output-file requirements-run.lock
	$(COMPILE) --constraint requirements-dev.lock --group build \
	  --output-file requirements-build.lock
	$(COMPILE) --upgrade --group audit --output-file requirements-audit.lock

clean:
	rm -rf "$(VENV)" dist .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache

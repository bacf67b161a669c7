# Every target does its own set-up; `make` alone says what there is.
SHELL := /bin/bash
CARGO ?= cargo
# Where Cargo puts what it builds.
TARGET := $(or $(CARGO_TARGET_DIR),target)
# Options for the demo, for example: make demo DEMO='--against-direct'
DEMO ?=
# Figures of the benchmark, by the names of benches/README.md (none is all), and its options: BENCH='--also old=PATH'
ONLY ?=
BENCH ?=
# 1: the package and the benchmark take what build-pgo makes.
PGO ?=
# What `make deny` looks at; advisories need the network.
DENY ?= advisories bans licenses sources
# Tests at once: most of a test's time is a server's or a timer's, so that few cores have time for more of them.
TEST_THREADS ?= $(shell cores=$$(nproc); echo $$((cores < 8 ? 2 * cores : cores)))
# target/debug/pglull as the integration tests have it: `cargo build` would choose other features for its crates, and build it all anew.
BUILD_TESTED = $(CARGO) test --locked --test it --no-run
# Drivers for test-drivers, by the names of tests/drivers/README.md.
DRIVERS ?= all

.DEFAULT_GOAL := help
.PHONY: help deps build build-pgo deb test-deb test-systemd test-deploy deny demo test test-drivers test-versions screenshots check lint doc bench bench-quick bench-micro instructions instructions-write clean

help: ## Say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-18s %s\n", $$1, $$2 }'

deps: ## Install what is missing (PostgreSQL's programs, a C compiler), or name it
	@./deploy/install-deps.sh

build: deps ## The program, in one build: target/release/pglull
	$(CARGO) build --release --locked

build-pgo: deps ## The same for production, arranged after a run of the demo: target/pgo/pglull (two builds; fetches llvm-profdata where it can)
	./deploy/build-pgo.sh

deb: deps ## The Debian package: target/debian; PGO=1 packs what build-pgo makes (needs cargo-deb: cargo install --locked cargo-deb)
	./deploy/build-deb.sh

test-deb: deps ## The package in a clean Debian 12 tree: install, run, upgrade, remove, purge (needs root, mmdebstrap, cargo-deb)
	./deploy/test-deb.sh

test-systemd: deps ## The package under a real systemd: watchdog, restarts that refuse nobody (needs root, systemd-container, mmdebstrap, cargo-deb)
	./deploy/test-systemd.sh

test-deploy: ## Manifests, rules, unit files and scripts, as their own tools read them; what is missing is said
	./deploy/test-deploy.sh

deny: ## Licences, bans, sources and advisories of the dependencies (needs cargo-deny: cargo install --locked cargo-deny)
	$(CARGO) deny --locked check $(DENY)

demo: build ## A live load, a schema change in a window, nobody disconnected; about 30 seconds
	$(TARGET)/release/pglull demo $(DEMO)

check: deps ## Type-check everything
	$(CARGO) check --locked --all-targets

lint: deps ## Formatting and lints; any complaint is an error
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings

doc: deps ## The documentation of the code; any complaint is an error
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --document-private-items

test: lint doc ## Formatting, lints, documentation, then all tests
	RUST_TEST_THREADS=$(TEST_THREADS) $(CARGO) test --locked

test-drivers: deps ## Real drivers of other languages, directly and through pglull (DRIVERS='pgx jdbc', SAVE=1: tests/drivers/README.md)
	$(BUILD_TESTED)
	PGLULL=$(TARGET)/debug/pglull ./tests/drivers/run.sh $(DRIVERS)
	PGLULL=$(TARGET)/debug/pglull ROUNDS=1 ./tests/drivers/heal.sh

test-versions: deps ## The integration tests against Postgres 14 to 18 (V='15 18' picks, T='differential' filters)
	RUST_TEST_THREADS=$(TEST_THREADS) ./tests/postgres-versions.sh $(V) -- $(T)

screenshots: deps ## Pictures of the status page in headless Chromium, to be looked at: target/screenshots
	$(BUILD_TESTED)
	PGLULL=$(TARGET)/debug/pglull ./tests/screenshots.sh $(TARGET)/screenshots

bench: deps ## pglull beside PgBouncer and a blind forwarder, as ratios; at most 25 minutes (ONLY='null window', SAVE=1, PGO=1)
	@./benches/install-pgbouncer.sh || true
	$(if $(filter 1,$(PGO)),./deploy/build-pgo.sh)
	$(CARGO) bench --locked --bench compare -- $(ONLY) $(BENCH) $(if $(filter 1,$(PGO)),--pglull $(TARGET)/pgo/pglull) $(if $(filter 1,$(SAVE)),--save)

bench-quick: BENCH += --quick
bench-quick: bench ## The same with fewer, shorter rounds; at most 5 minutes

bench-micro: deps ## The parts by the clock, with Criterion; about two minutes
	$(CARGO) bench --locked --bench micro -- --quick

# As the tests are built, so that little is built anew: what is counted is optimised, in one unit and without checks of its own, so that
# the same source gives the same instructions.
COUNTED := pglull tokio bytes foldhash rustix
COUNTED_AS := opt-level=2 codegen-units=1 debug-assertions=false debug=false
COUNT = CARGO_INCREMENTAL=0 $(CARGO) bench --locked --bench instructions --no-default-features --profile dev \
	$(foreach package,$(COUNTED),$(foreach as,$(COUNTED_AS),--config profile.dev.package.$(package).$(as))) --

instructions: deps ## Instructions of the parts and of whole transactions beside what is expected: 3 % more is a failure
	$(COUNT) --check

instructions-write: deps ## Write what is counted into benches/expected-instructions.txt
	$(COUNT) --write

clean: ## Remove what was built
	$(CARGO) clean

# anon_auth: `make help` says what there is.
#
# Everything but `install` happens below target/: a private copy of Postgres (PG says which version) and
# throwaway clusters in temporary folders.

PG ?= 15
# Cargo's profile for what is built for tests and the demo; `install` and `package` build for release.
PROFILE ?= dev
PG_CONFIG ?= pg_config

TREE := $(CURDIR)/target/pg/$(PG)
CARGO_OPTIONS := --profile $(PROFILE)
FEATURES := --no-default-features --features pg$(PG)

export ANON_AUTH_PG_BIN := $(TREE)/bin
export PGRX_PG_CONFIG_PATH := $(TREE)/bin/pg_config
export CARGO_OPTIONS
# cargo-pgrx adds this option by itself; giving it to every cargo makes them share what is built.
export RUSTFLAGS := -C link-arg=-Wl,--no-gc-sections

.DEFAULT_GOAL := help
.PHONY: help prepare tree build test test-unit test-sql test-integration test-all lint demo psql bench package install clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-18s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo 'PG=16, 17 or 18 chooses another Postgres than 15 for build, test, lint, demo and psql.'

prepare: ## install what building needs and this machine lacks (asks sudo where it must)
	@.ci/prepare $(PG)

tree: prepare
	@.ci/postgres-tree $(PG)

build: tree ## build the extension into the private Postgres
	umask 022 && cargo pgrx install $(CARGO_OPTIONS) $(FEATURES) --pg-config '$(PGRX_PG_CONFIG_PATH)'
	@chmod -R a+rX '$(TREE)'

test: build ## everything: unit, SQL and integration tests
	@tests/run.sh unit sql docs integration

test-unit: ## the tests that need no Postgres
	@tests/run.sh unit

test-sql: build ## SQL tests only; T=name runs one of them
	@T=$(T) tests/run.sh sql

test-integration: build ## tests over real connections only
	@tests/run.sh integration

test-all: ## everything, on Postgres 15, 16, 17 and 18
	@failed=; for version in 15 16 17 18; do \
		$(MAKE) --no-print-directory test PG=$$version || failed="$$failed $$version"; \
	done; \
	[ -z "$$failed" ] || { echo "failed on Postgres$$failed" >&2; exit 1; }

lint: tree ## clippy with warnings as errors, and rustfmt
	cargo fmt --all --check
	cargo clippy --workspace --all-targets $(FEATURES) -- -D warnings

demo: build ## guests, sessions, policies and clean-up on a throwaway database; KEEP=1 leaves psql open on it
	@KEEP=$(KEEP) tests/demo.sh

psql: build ## psql on a throwaway database with the extension
	@tests/psql.sh

bench: ## times the hot paths beside plain SQL, with a release build; see docs/performance.md
	@$(MAKE) --no-print-directory build PROFILE=release
	@benches/run.sh

# What `install` and `package` build for is the server that PG_CONFIG belongs to, not the private one.
TARGET_PG = $(shell '$(PG_CONFIG)' --version | sed -E 's/^[^0-9]*([0-9]+).*/\1/')
PACKAGE = target/package/pg$(TARGET_PG)

package: prepare ## build for the Postgres of PG_CONFIG, into a folder that mirrors its paths
	rm -rf '$(PACKAGE)'
	umask 022 && PGRX_PG_CONFIG_PATH="$$(command -v '$(PG_CONFIG)')" cargo pgrx package \
		--no-default-features --features pg$(TARGET_PG) \
		--pg-config "$$(command -v '$(PG_CONFIG)')" --out-dir '$(PACKAGE)'

install: package ## install into the Postgres of PG_CONFIG (pg_config unless told), with sudo where needed
	@sudo=; [ -w "$$('$(PG_CONFIG)' --pkglibdir)" ] || sudo=sudo; cd '$(PACKAGE)' && \
	find . -type f -printf '%P\n' | while IFS= read -r file; do \
		echo "installing /$$file"; $$sudo install -D -m 644 "$$file" "/$$file" || exit 1; \
	done

clean: ## remove everything that was built
	rm -rf target

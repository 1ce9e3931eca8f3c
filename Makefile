# anon_auth: `make help` says what there is.
#
# Everything but `install` happens below target/: a private copy of Postgres (PG says which version) and
# throwaway clusters in temporary folders.

PG ?= 15
# Cargo's profile for what is built for tests and the demo; `all`, `install` and `package` build for release.
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
.PHONY: all help prepare tree build test test-unit test-sql test-integration test-all test-package test-upgrade lint demo \
	psql reference bench package deb install clean

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

test-upgrade: ## with data from Postgres 15 to 17 and 18, and from one version of anon_auth to the next
	@for version in 15 17 18; do $(MAKE) --no-print-directory build PG=$$version || exit 1; done
	@tests/run.sh upgrade

lint: tree ## clippy with warnings as errors, and rustfmt
	cargo fmt --all --check
	cargo clippy --workspace --all-targets $(FEATURES) -- -D warnings

demo: build ## guests, sessions, policies and clean-up on a throwaway database; KEEP=1 leaves psql open on it
	@KEEP=$(KEEP) tests/demo.sh

psql: build ## psql on a throwaway database with the extension
	@tests/psql.sh

reference: build ## write docs/reference.md anew, from the comments of the database
	@tests/reference.sh >target/reference.md && cp target/reference.md docs/reference.md

bench: ## times the hot paths beside plain SQL, with a release build; see docs/performance.md
	@$(MAKE) --no-print-directory build PROFILE=release
	@benches/run.sh

# What `all` and `install` build for is the server that PG_CONFIG belongs to, not the private one. As these two, the
# way extensions are built everywhere: `make`, then, perhaps as root, `make install`.
TARGET_PG = $(shell '$(PG_CONFIG)' --version | sed -E 's/^[^0-9]*([0-9]+).*/\1/')
STAGED = target/staged/$(shell '$(PG_CONFIG)' --pkglibdir | cksum | cut -d' ' -f1)
SOURCES := $(shell find src sql crates Cargo.toml Cargo.lock anon_auth.control -type f 2>/dev/null)

all: $(STAGED)/built ## build for the Postgres of PG_CONFIG (pg_config unless told), optimised

$(STAGED)/built: $(SOURCES)
	@.ci/prepare
	rm -rf '$(STAGED)'
	umask 022 && PGRX_PG_CONFIG_PATH="$$(command -v '$(PG_CONFIG)')" cargo pgrx package \
		--no-default-features --features pg$(TARGET_PG) \
		--pg-config "$$(command -v '$(PG_CONFIG)')" --out-dir '$(STAGED)/files'
	touch '$@'

install: all ## install into the Postgres of PG_CONFIG, with sudo where needed
	@sudo=; [ -w "$$('$(PG_CONFIG)' --pkglibdir)" ] || sudo=sudo; cd '$(STAGED)/files' && \
	find . -type f -printf '%P\n' | while IFS= read -r file; do \
		echo "installing /$$file"; $$sudo install -D -m 644 "$$file" "/$$file" || exit 1; \
	done

# Postgres versions to make packages for.
VERSIONS ?= 15 16 17 18

package: prepare ## a .deb for each Postgres of VERSIONS ("15 16 17 18"), and the archive for PGXN, in target/package
	@for version in $(VERSIONS); do \
		.ci/prepare $$version && .ci/postgres-tree $$version && \
		$(MAKE) --no-print-directory deb PG_CONFIG='$(CURDIR)/target/pg/'$$version/bin/pg_config || exit 1; \
	done
	@.ci/pgxn target/package

deb: all
	@.ci/deb $(TARGET_PG) '$(STAGED)/files' target/package

test-package: ## install the .deb of Postgres 15 on a clean Debian and run the SQL tests there (as root)
	@$(MAKE) --no-print-directory package VERSIONS=15
	@tests/package.sh target/package/postgresql-15-anon-auth_*.deb

clean: ## remove everything that was built
	rm -rf target

#!/usr/bin/env bash
# Runs test suites on the Postgres of ANON_AUTH_PG_BIN, each on a fresh throwaway cluster, and ends
# with the sum: "N passed, N failed". Usage: tests/run.sh SUITE...
#
#   unit           the crate that needs no Postgres
#   sql            tests/sql against tests/expected: `setup` first, then all others, or only the one
#                  that the variable T names
#   docs           the SQL of README.md and docs, pasted into psql from top to bottom; what they show of its output;
#                  the reference; links
#   integration    Rust tests over real connections; `cluster.sh start` tells which variables they get.
#                  The database has anon_auth, and pg_cron where this Postgres comes with it
#   upgrade        to Postgres 17 and 18 with a database's content, and to another version of anon_auth; needs the
#                  extension built for 15, 17 and 18, whose private copies are in target/pg
#
# Options for cargo, such as the profile, are taken from CARGO_OPTIONS. The servers' logs and the
# differences of the SQL tests are kept in target/test-logs.
set -euo pipefail
umask 022
cd "$(dirname "$0")/.."

bin=${ANON_AUTH_PG_BIN:?is to name the folder of the Postgres programs to test on}
version=$("$bin/postgres" --version | sed -E 's/^[^0-9]*([0-9]+).*/\1/')
read -ra cargo_options <<<"${CARGO_OPTIONS:-}"
logs=target/test-logs/$version
passed=0 failed=0

work=$(mktemp -d "${TMPDIR:-/tmp}/anon_auth_test.XXXXXX")
chmod a+rx "$work"
rm -rf "$logs"
mkdir -p "$logs"

say() { printf '\n[test %s] %s\n' "$version" "$*"; }

# Starts the cluster of suite $1 and exports how to connect. What hangs fails, rather than the suite with it.
start_cluster() {
    local line settings
    settings=$(ANON_AUTH_PG_BIN=$bin tests/cluster.sh start "$work/$1" statement_timeout=5min)
    while IFS= read -r line; do export "${line?}"; done <<<"$settings"
}

remove_cluster() {
    cp "$work/$1/log" "$logs/$1.log" || true
    tests/cluster.sh remove "$work/$1"
}

# Removes every cluster there is, those included that a failed test left. "integration" comes after theirs,
# since it may hold the Postgres programs of all.
remove_clusters() {
    local data
    for data in "$work"/anon_auth_it.*/data "$work"/{sql,docs,integration}/data; do
        [ ! -d "$data" ] || remove_cluster "$(basename "$(dirname "$data")")"
    done
}

cleanup() {
    remove_clusters
    rm -rf "$work"
}
trap cleanup EXIT

# Adds a suite's result to the sum. $1 and $2 are its counts, $3 its exit code: a suite that broke
# before it counted a failure has failed too.
count() {
    passed=$((passed + $1)) failed=$((failed + $2))
    [ "$3" = 0 ] || [ "$2" != 0 ] || failed=$((failed + 1))
}

cargo_test() {
    local code=0 counts
    cargo test "${cargo_options[@]}" --no-fail-fast "$@" 2>&1 | tee "$work/output" || code=$?
    counts=$(awk '/^test result:/ { p += $4; f += $6 } END { print p + 0, f + 0 }' "$work/output")
    # shellcheck disable=SC2086 # two numbers
    count $counts "$code"
}

unit() {
    say "unit tests"
    cargo_test -p anon_auth_core
}

sql() {
    local code=0 all bad tests=(setup) file
    for file in tests/sql/${T:-*}.sql; do
        [ "$file" = tests/sql/setup.sql ] || tests+=("$(basename "$file" .sql)")
    done
    say "SQL tests"
    start_cluster sql
    "$(dirname "$("$bin/pg_config" --pgxs)")/../test/regress/pg_regress" \
        --bindir="$bin" --inputdir=tests --outputdir="$logs" \
        --host="$PGHOST" --port="$PGPORT" --user="$PGUSER" --dbname="$PGDATABASE" --use-existing \
        "${tests[@]}" 2>&1 | tee "$work/output" || code=$?
    cat "$logs/regression.diffs" 2>/dev/null || true
    remove_cluster sql
    all=$(sed -nE 's/.*(All|of) ([0-9]+) tests (passed|failed).*/\2/p' "$work/output")
    bad=$(sed -nE 's/.* ([0-9]+) of [0-9]+ tests failed.*/\1/p' "$work/output")
    count $((${all:-0} - ${bad:-0})) "${bad:-0}" "$code"
}

docs() {
    local shown='/^```sql/ { shown = 1; next } /^```/ { shown = 0 } shown' files=()
    say "the documentation"
    start_cluster docs
    # Each page goes on where the ones before end.
    files+=(docs/{merge,addresses,passwords,moving-a-guest,device-keys,proof-of-work,openid-connect,delivery}.md)
    files+=(docs/{hooks,lazy-guests,importing-users,guest-providers,clients,postgrest,abuse-protection,captcha}.md)
    # What administrators do includes a schedule, which needs pg_cron.
    [ "$ANON_AUTH_PG_CRON" = no ] || files+=(docs/operation.md)
    files+=(docs/{policies,monitoring}.md)
    {
        awk "$shown" README.md
        # All pages together sign in more often than one client may.
        echo "select auth.set_setting('sign_in_rate_limit', '0');"
        awk "$shown" "${files[@]}"
    } >"$work/docs.sql"
    check "$logs/docs.out" "$bin/psql" -X -a -v ON_ERROR_STOP=1 -f "$work/docs.sql"
    check "$logs/outputs.out" python3 tests/outputs.py "$logs/docs.out" README.md "${files[@]}"
    # The reference is what `make reference` makes of the database's comments.
    "$bin/psql" -X -q -c 'create database reference'
    PGDATABASE=reference "$bin/psql" -X -q -c 'create extension anon_auth'
    PGDATABASE=reference tests/reference.sh >"$work/reference.md"
    check "$logs/reference.diff" diff -u docs/reference.md "$work/reference.md"
    check "$logs/links.out" python3 tests/links.py
    remove_cluster docs
}

# Runs a command as a test; what it prints is kept in file $1, and its end is shown where it fails.
check() {
    local code=0
    "${@:2}" >"$1" 2>&1 || code=$?
    [ "$code" = 0 ] || tail -n 20 "$1"
    count $((code == 0)) $((code != 0)) "$code"
}

# Installs the npm packages of folder $1 and its files into folder $2, unless they are there.
install_npm() {
    mkdir -p "$2"
    cp "$1"/* "$2"
    cmp -s "$1/package-lock.json" "$2/installed" && return
    (cd "$2" && npm ci --ignore-scripts --no-audit --no-fund && cp package-lock.json installed)
}

integration() {
    local extension
    say "integration tests"
    # The OpenID provider that tests sign in at, what guests' devices and browsers use, the software whose users are
    # imported, the drivers of docs/clients.md.
    export ANON_AUTH_OPENID=$PWD/target/openid ANON_AUTH_DEVICES=$PWD/target/devices
    export ANON_AUTH_BETTER_AUTH=$PWD/target/better-auth ANON_AUTH_CLIENTS=$PWD/target/clients
    install_npm tests/oidc "$ANON_AUTH_OPENID"
    install_npm tests/devices "$ANON_AUTH_DEVICES"
    install_npm tests/better-auth "$ANON_AUTH_BETTER_AUTH"
    install_npm tests/clients/node "$ANON_AUTH_CLIENTS/node"
    ANON_AUTH_PYTHON=$(.ci/python)
    export ANON_AUTH_PYTHON
    start_cluster integration
    for extension in $([ "$ANON_AUTH_PG_CRON" = no ] || echo pg_cron) anon_auth; do
        "$bin/psql" -X -q -c "create extension $extension"
    done
    # They wait more than they work: for each other's locks, and for pg_cron's next minute.
    TMPDIR=$work RUST_TEST_THREADS=4 cargo_test -p anon_auth_tests --test suite
    remove_clusters
}

# Copies the extension from the private Postgres of folder $1 to another of the same major version, $2.
copy_extension() {
    cp "$("$1/bin/pg_config" --pkglibdir)"/anon_auth.so "$("$2/bin/pg_config" --pkglibdir)"
    cp "$("$1/bin/pg_config" --sharedir)"/extension/anon_auth* "$("$2/bin/pg_config" --sharedir)/extension"
}

upgrade() {
    say "upgrades"
    # Debian's 15 marks each column (pg_attver), since a security release that 17 and 18 of the wheels do not have
    # yet; nothing can be moved from the one to the others. So the data comes from a 15 of their age.
    .ci/postgres-tree 15.19
    copy_extension target/pg/15 target/pg/15.19
    ANON_AUTH_RELEASES=$(.ci/releases)
    export ANON_AUTH_RELEASES
    TMPDIR=$work RUST_TEST_THREADS=1 cargo_test -p anon_auth_tests --test upgrade
    remove_clusters
}

for suite in "$@"; do
    "$suite"
done
printf '\n%s passed, %s failed\n' "$passed" "$failed"
[ "$failed" = 0 ] || { echo "logs and differences are in $logs" >&2; exit 1; }

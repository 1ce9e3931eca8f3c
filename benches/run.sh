#!/usr/bin/env bash
# Measures the extension beside plain SQL on one throwaway cluster, and prints a table: see docs/performance.md.
#
#   ROWS="sign_in refresh"   only these files of benches/rows (all unless told)
#   SCALE=100                a hundredth of the rows and users, to try things out (1 unless told)
#   ROUNDS=5                 how often each measurement is repeated
#
# What is compared takes turns within each round, so that whatever else the machine does meets all of it. A figure
# is the median of the rounds.
#
# To add a row, add a file to benches/rows: it sets `needs` to the databases it uses (make_… below), and defines
# run(), which calls `measure` and `row`.
set -euo pipefail
cd "$(dirname "$0")/.."

scale=${SCALE:-1}
rounds=${ROUNDS:-5}
out=target/bench

dir=$(mktemp -d "${TMPDIR:-/tmp}/anon_auth_bench.XXXXXX")
chmod a+rx "$dir"
trap 'tests/cluster.sh remove "$dir"' EXIT

say() { printf '[bench] %4ds %s\n' "$SECONDS" "$*" >&2; }

# fsync is on. No checkpoint, autovacuum or JIT compilation comes in between, and plans are serial unless a row
# says otherwise.
start_cluster() {
    local settings line
    settings=$(tests/cluster.sh start "$dir" shared_preload_libraries= shared_buffers=1GB max_wal_size=32GB \
        checkpoint_timeout=1h autovacuum=off max_parallel_workers_per_gather=0 jit=off)
    while IFS= read -r line; do export "${line?}"; done <<<"$settings"
    pgbench=$ANON_AUTH_PG_BIN/pgbench
    [ -x "$pgbench" ] || { echo "this Postgres comes without pgbench: use PG=15" >&2; exit 1; }
}

psql() { "$ANON_AUTH_PG_BIN/psql" -X -q -v ON_ERROR_STOP=1 "$@"; }
# The one value of a query: value DATABASE SQL
value() { psql -At -d "$1" -c "$2"; }

# ---- databases: a setup file each, with how many rows it is to make --------------------------------------------

scaled() { echo $(($1 / scale)); }
# A number at this scale, as the table has it: 1 M, 50 k.
words() {
    local n
    n=$(scaled "$1")
    if ((n % 1000000 == 0)); then echo "$((n / 1000000)) M"
    elif ((n % 1000 == 0)); then echo "$((n / 1000)) k"
    else echo "$n"; fi
}

make_documents() { setup documents -v rows="$(scaled 1000000)"; }
make_parallel() { setup parallel -v rows="$(scaled 5000000)"; }
# Nobody has expired in these.
make_guests_10k() { make_guests 10000; }
make_guests_100k() { make_guests 100000; }
make_guests_1m() { make_guests 1000000; }
make_guests_5m() { make_guests 5000000; }
make_guests() {
    setup guests -v guests="$(scaled "$1")" -v days=50
    setup documents -v rows=10000
}
# Half of them, 500 k, have: those of more than 90 days. So have their sessions, and no others: the DELETE that clean-up
# is compared with would leave those.
make_expired() {
    setup guests -v guests="$(scaled 1000000)" -v days=180
    psql -d "$database" -c "select auth.set_setting('session_idle_timeout', '90 days')" >/dev/null
}
make_merge() { setup merge -v rows="$(scaled 10000)"; }
make_empty() { :; }
make_lazy() { psql -d "$database" -c "select auth.set_setting('guest_storage', 'lazy')" >/dev/null; }
make_lazy_hs256() {
    make_lazy
    psql -d "$database" -c "select auth.rotate_signing_key('HS256')" >/dev/null
}
# Takes a while, and is about no time: measured while the other databases are made.
make_memory() { psql -d memory -v calls="$(scaled 8000)" -f benches/memory.sql >"$dir/memory"; }

# Fills the new database that $database names from a file of benches/setup.
setup() { psql -d "$database" "${@:2}" -f "benches/setup/$1.sql" >/dev/null; }

make_database() {
    local database=$1
    psql -d postgres -c "create database $database"
    psql -d "$database" -c 'create extension anon_auth'
    setup guest
    "make_$database"
    psql -d "$database" -c 'vacuum (freeze, analyze)'
}

# Makes databases, two at a time, the largest first.
make_databases() {
    local database
    psql -d postgres -f benches/setup/roles.sql
    # It makes a role of its own the first time, which two at once would both do.
    psql -d postgres -c 'create extension anon_auth'
    for database in guests_5m memory guests_1m expired parallel documents guests_100k merge guests_10k empty lazy lazy_hs256; do
        [[ " $* " == *" $database "* ]] || continue
        while (($(jobs -rp | wc -l) >= 2)); do wait -n; done
        say "making the database $database"
        make_database "$database" &
    done
    while [ -n "$(jobs -rp)" ]; do wait -n; done
    psql -d postgres -c checkpoint
}

# ---- measuring --------------------------------------------------------------------------------------------------

# Notes one sample: sample NAME UNIT VALUE
sample() { psql -c "insert into samples (name, unit, value) values ('$1', '$2', $3)"; }

# Runs a script of benches/scripts with pgbench: run_pgbench SCRIPT ROLE DATABASE CLIENTS [OPTION]... The script
# gets the access token of a guest of that database, its claims, and how many documents that guest has.
run_pgbench() {
    local access_token claims owned
    access_token=$(value "$3" 'select access_token from guest')
    claims=$(value "$3" 'select claims from guest')
    owned=$([ "$3" = documents ] && scaled 10000 || echo 100)
    "$pgbench" -n -M prepared -U "$2" -c "$4" -j "$(($4 < 2 ? 1 : 2))" "${@:5}" -f "benches/scripts/$1.sql" \
        -D "access_token=$access_token" -D "claims=$claims" -D "owned=$owned" -D is_first=1 "$3" \
        2>"$dir/pgbench.err" || { cat "$dir/pgbench.err" >&2; return 1; }
}

# measure UNIT NAME="SCRIPT ROLE DATABASE CLIENTS OPTION..." ...
# Takes samples with pgbench, in turns. UNIT: "/s" for transactions per second, "ms" for milliseconds each.
measure() {
    local unit=$1 round item spec
    shift
    say "measuring ${*%%=*}"
    for ((round = 0; round < rounds; round++)); do
        for item in "$@"; do
            read -ra spec <<<"${item#*=}"
            run_pgbench "${spec[@]}" >"$dir/pgbench.out"
            sample "${item%%=*}" "$unit" "$(awk -v unit="$unit" -v clients="${spec[3]}" \
                '/^tps/ { print unit == "/s" ? $3 : 1000 * clients / $3 }' "$dir/pgbench.out")"
        done
    done
}

# A line of the table: row DESCRIPTION NAME [YARDSTICK_DESCRIPTION YARDSTICK [TARGET]]
# NAME and YARDSTICK name samples. TARGET is "ratio >= 0.75", "value <= 2" or empty.
row() {
    psql -v what="$1" -v name="$2" -v yardstick_what="${3:-}" -v yardstick="${4:-}" -v target="${5:-}" <<'SQL'
insert into rows (what, name, yardstick_what, yardstick, target)
values (:'what', :'name', :'yardstick_what', nullif(:'yardstick', ''), :'target');
SQL
}

machine() {
    printf '%s, %s cores, %s memory, %s, %s, commit %s, %s\n' \
        "$(awk -F ': ' '/model name/ { print $2; exit }' /proc/cpuinfo)" "$(nproc)" \
        "$(awk '/MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo)" "$(uname -sr)" \
        "$(value postgres "select 'PostgreSQL ' || current_setting('server_version')")" \
        "$(git describe --always --dirty 2>/dev/null || echo unknown)" "$(date -u +%F)"
}

# ---- the run ----------------------------------------------------------------------------------------------------

files=()
for file in benches/rows/*.sh; do
    name=$(basename "$file" .sh)
    [ -n "${ROWS:-}" ] && [[ " $ROWS " != *" ${name#*_} "* ]] || files+=("$file")
done
needs=
all_needs=
for file in "${files[@]}"; do
    # shellcheck source=/dev/null
    source "$file"
    all_needs+=" $needs"
done

start_cluster
psql -f benches/setup/results.sql
make_databases "$all_needs"
for file in "${files[@]}"; do
    # shellcheck source=/dev/null
    source "$file"
    run
done

mkdir -p "$out"
psql -At -v machine="$(machine)" -v seconds="$SECONDS" -v scale="$scale" -v rounds="$rounds" \
    -f benches/report.sql >"$dir/report"
# The report has the table first, then a line of JSON.
sed '$d' "$dir/report" >"$out/results.md"
sed -n '$p' "$dir/report" >"$out/results.json"
cat "$out/results.md"
say "written to $out/results.md and $out/results.json"

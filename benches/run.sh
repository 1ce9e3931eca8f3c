#!/usr/bin/env bash
# Times the hot paths of the extension beside yardsticks, on one throwaway cluster, and prints the ratios.
#
# Each pair is measured in turns, several times, and the medians are compared: what else the machine does
# meets both. Rates are pgbench's, without the time to connect. Everything runs in sessions that have done
# the same before, over a socket, with fsync on and without parallel workers.
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=5
seconds=2
clients=8

# No checkpoint and no autovacuum in the middle of it.
dir=$(mktemp -d "${TMPDIR:-/tmp}/anon_auth_bench.XXXXXX")
chmod a+rx "$dir"
trap 'tests/cluster.sh remove "$dir"' EXIT
settings=$(tests/cluster.sh start "$dir" shared_preload_libraries= shared_buffers=512MB max_wal_size=8GB \
    checkpoint_timeout=1h autovacuum=off max_parallel_workers_per_gather=0)
while IFS= read -r line; do export "${line?}"; done <<<"$settings"
pgbench=$ANON_AUTH_PG_BIN/pgbench
[ -x "$pgbench" ] || { echo "this Postgres comes without pgbench: use PG=15" >&2; exit 1; }

say() { printf '[bench] %s\n' "$*"; }
psql() { "$ANON_AUTH_PG_BIN/psql" -X -q -v ON_ERROR_STOP=1 "$@"; }

# Prints the transactions per second of script $1, run as role $2 by $3 clients for $4 (-T2 or -t100, say).
rate() {
    "$pgbench" -n -M prepared -U "$2" -c "$3" -j "$(($3 < 2 ? 1 : 2))" "$4" -f "benches/$1.sql" \
        -D "access_token=$access_token" -D "claims=$claims" -D is_first=1 "${@:5}" 2>"$dir/pgbench.err" |
        awk '/^tps/ { print $3; found = 1 } END { exit !found }' || { cat "$dir/pgbench.err" >&2; return 1; }
}

median() { sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

# Measures scripts in turns. Arguments are NAME=SCRIPT:ROLE:CLIENTS:LENGTH[:DATABASE]; tps[NAME] is the median.
declare -A tps=([two_milliseconds]=500)
measure() {
    local round item name script role count length database
    for ((round = 0; round < rounds; round++)); do
        for item in "$@"; do
            name=${item%%=*}
            IFS=: read -r script role count length database <<<"${item#*=}"
            rate "$script" "$role" "$count" "$length" "${database:-$PGDATABASE}" >>"$dir/$name"
        done
    done
    for item in "$@"; do
        name=${item%%=*}
        tps[$name]=$(median <"$dir/$name")
    done
}

calculate() { awk "BEGIN { printf \"%.${2:-2}f\", $1 }"; }

# One line of the table: what, ours, the yardstick, their ratio, the target (such as "<= 1.10").
line() {
    local missed=
    awk "BEGIN { exit !($4 $5) }" || missed='  MISSED'
    printf '%-57s %12s %12s %7s   %s\n' "$1" "$2" "$3" "$(calculate "$4")" "$5$missed"
}
rates() {
    line "$1" "$(calculate "${tps[$2]}" 0)/s" "$(calculate "${tps[$3]}" 0)/s" "${tps[$2]} / ${tps[$3]}" "$4"
}
times() {
    line "$1" "$(calculate "1000 / ${tps[$2]}") ms" "$(calculate "1000 / ${tps[$3]}") ms" "${tps[$3]} / ${tps[$2]}" "$4"
}

say "making a million documents, 100,000 guests in one database, a million in another"
psql -f benches/app.sql >/dev/null
for guests in 100000 1000000; do
    psql -c "create database guests_$guests"
    psql -d "guests_$guests" -v guests="$guests" -f benches/guests.sql
done
access_token=$(psql -At -c 'select access_token from guest')
claims=$(psql -At -c 'select claims from guest')
psql -c checkpoint

say "counting a million rows"
measure count=count_ours:app:1:-t4 count_yardstick=count_yardstick:yardstick:1:-t4
say "reading one row"
measure read=read_ours:app:1:-T$seconds unchecked=read_ours:app_unchecked:1:-T$seconds \
    read_yardstick=read_yardstick:yardstick:1:-T$seconds
say "signing in"
measure sign_in=sign_in_ours:app:$clients:-T$seconds sign_in_yardstick=sign_in_yardstick:postgres:$clients:-T$seconds
say "refreshing"
measure refresh=refresh_ours:app:$clients:-T$seconds refresh_yardstick=refresh_yardstick:postgres:$clients:-T$seconds
say "cleaning up where nothing has expired"
measure few=cleanup:postgres:1:-t100:guests_100000 many=cleanup:postgres:1:-t100:guests_1000000

printf '\n%-57s %12s %12s %7s   %s\n' "medians of $rounds rounds" ours yardstick ratio target
times 'count(*) of 1 M rows, policy with auth.uid() : a literal' count count_yardstick '<= 1.10'
rates 'authenticate, read a row : set_config, a literal' read read_yardstick '>= 0.75'
rates 'the same, anon_auth.check_session off' unchecked read_yardstick '>= 0.75'
rates "sign_in_anonymously, ES256, $clients clients : two inserts" sign_in sign_in_yardstick '>= 0.75'
rates "refresh_session, $clients clients : a HOT update" refresh refresh_yardstick '>= 0.70'
times 'clean-up, nothing expired, 1 M guests : 100,000 guests' many few '<= 1.50'
times 'clean-up, nothing expired, 1 M guests : two milliseconds' many two_milliseconds '<= 1.00'
printf '\nLooking up session and user costs %s microseconds a transaction (the second and third line).\n' \
    "$(calculate "1e6 / ${tps[read]} - 1e6 / ${tps[unchecked]}" 0)"

# How long sign-ins take while half a million guests are cleaned up: 8 clients that sign in as fast as they can, so
# that all cores are busy already; and 8 clients that together come 500 times a second, waiting included.
needs=expired

run() {
    local round rounds=2 p99='99th percentile of sign-in, clean-up running'
    say "measuring sign-in while clean-up runs"
    for ((round = 0; round < rounds; round++)); do
        percentile sign_in_p99
        percentile sign_in_p99_paced --rate=500
    done
    row "$p99, 8 clients" sign_in_p99_busy 'no clean-up' sign_in_p99_idle 'ratio <= 2'
    row "$p99, 500 sign-ins a second" sign_in_p99_paced_busy 'no clean-up' sign_in_p99_paced_idle 'ratio <= 2'
}

# Samples the 99th percentile as $1_idle and $1_busy, on a copy of the database; further options go to pgbench.
percentile() {
    local cleanup ended
    psql -d postgres -c 'create database copy template expired'
    sign_ins "${@:2}"
    sample "$1_idle" ms "$(slowest_percent 9999999999)"

    { psql -d copy -c 'call auth.cleanup()' 2>/dev/null || true; echo "$EPOCHREALTIME" >"$dir/ended"; } &
    cleanup=$!
    sign_ins "${@:2}"
    psql -d postgres -c "select pg_terminate_backend(pid) from pg_stat_activity where query = 'call auth.cleanup()'" >/dev/null
    wait "$cleanup"
    ended=$(cat "$dir/ended")
    sample "$1_busy" ms "$(slowest_percent "$ended")"
    psql -d postgres -c 'drop database copy with (force)'
}

sign_ins() {
    rm -f "$dir"/log.*
    run_pgbench sign_in app copy 8 -T4 -l --log-prefix="$dir/log" "$@" >/dev/null
}

# The 99th percentile in milliseconds of what was logged before the time $1.
slowest_percent() {
    awk -v until="$1" '$5 + $6 / 1e6 < until { print $3 }' "$dir"/log.* | sort -n |
        awk '{ v[NR] = $1 } END { print v[int(NR * 0.99) + 1] / 1000 }'
}

# A parallel plan: the same rows as serially, and how much sooner.
needs=parallel

run() {
    local rows serial parallel
    rows=$(words 5000000)
    serial=$(count_as_guest 0)
    parallel=$(count_as_guest 2)
    [ "${serial##*$'\n'}" = "${parallel##*$'\n'}" ] || { echo "serial: $serial, parallel: $parallel" >&2; return 1; }
    # A small table has no parallel plan.
    ((scale > 1)) || [[ $parallel == *'Workers Launched: 2'* ]] || { echo "no parallel plan: $parallel" >&2; return 1; }
    measure ms count_parallel="count_parallel app parallel 1 -t3" count_serial="count_serial app parallel 1 -t3"
    row "count(*) of $rows guarded rows, parallel plan (2 workers), same count" count_parallel \
        'the same, serial plan' count_serial
}

# The plan of the count with at most $1 workers, then the count itself.
count_as_guest() {
    psql -At -U app -d parallel <<SQL
begin;
select auth.authenticate('$(value parallel 'select access_token from guest')') is null;
set local max_parallel_workers_per_gather = $1;
explain (analyze, costs off, timing off, summary off) select count(*) from measurements;
select count(*) from measurements;
commit;
SQL
}

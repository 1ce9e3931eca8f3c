# By how much calls make a backend grow: see benches/memory.sql.
needs=memory

run() {
    local function calls bytes
    while IFS='|' read -r function calls bytes; do
        if [ "$calls" = -1 ]; then
            say "benches/memory.sql has no call of auth.$function"
        else
            sample "memory: $function" MiB "$bytes * 1e6 / 1048576"
        fi
    done <"$dir/memory"
    sample memory MiB "(select max(value) from samples where name like 'memory: %')"
    row "growth of a backend by a million calls, the most of $(grep -vc '|-1|' "$dir/memory") kinds of calls" memory '' '' 'value < 1'

    say "calling readers a million times"
    for function in jwt uid role email is_anonymous session_id; do
        sample "million: $function" MiB "$(growth_by_a_million "$function")"
    done
    sample million MiB "(select max(value) from samples where name like 'million: %')"
    row 'growth of a backend by a million calls in one statement, the most of 6 readers' million '' '' 'value < 1'
}

# MiB that a backend grows by a million calls of reader $1, after twice as many before: generate_series() itself
# takes its memory in the first two.
growth_by_a_million() {
    psql -At -d memory <<SQL
select set_config('anon_auth.access_token', access_token, false) = '' from guest \g /dev/null
select count(auth.$1()) from generate_series(1, $(scaled 1000000)) \g /dev/null
select count(auth.$1()) from generate_series(1, $(scaled 1000000)) \g /dev/null
select substring(pg_read_file('/proc/self/status') from 'RssAnon:\s+(\d+) kB') as before \gset
select count(auth.$1()) from generate_series(1, $(scaled 1000000)) \g /dev/null
select (substring(pg_read_file('/proc/self/status') from 'RssAnon:\s+(\d+) kB')::float8 - :before) / 1024;
SQL
}

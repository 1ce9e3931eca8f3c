# Bytes on disk, of guests that really signed in.
needs=empty

run() {
    local size="(select sum(pg_total_relation_size(oid)) from unnest(array['auth.users'::regclass, 'auth.sessions'::regclass]) oid)"
    local guests=$((50000 / scale))
    say "signing in $guests guests, to see their size"
    psql -d postgres -c 'create database size'
    psql -d size -c 'create extension anon_auth' -f benches/setup/guest.sql >/dev/null
    run_pgbench sign_in app size 8 -t $((guests / 8)) >/dev/null
    psql -d size -c vacuum
    sample size bytes "$(value size "select $size / count(*) from auth.users")"
    row 'heap and indexes of a guest with a session' size '' '' 'value <= 450'
    psql -d postgres -c 'drop database size'
}

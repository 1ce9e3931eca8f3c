# What a call costs besides time.
needs="empty guests_10k"

run() {
    say "counting WAL, HOT updates and transaction ids"
    local wal="pg_current_wal_insert_lsn() - '0/0'" calls=$((5000 / scale))
    each wal_sign_in bytes "$wal" "sign_in app empty 1"
    each wal_insert bytes "$wal" "sign_in_insert postgres empty 1"
    each wal_refresh bytes "$wal" "refresh app empty 1"
    each wal_update bytes "$wal" "refresh_update postgres empty 1"
    each hot '%' "100 * (select n_tup_hot_upd from pg_stat_user_tables where relid = 'auth.sessions'::regclass)" \
        "refresh app empty 1"
    each xids ids 'pg_snapshot_xmax(pg_current_snapshot())::text::bigint' "read app guests_10k 1"
    row 'WAL of a sign-in' wal_sign_in 'of the two inserts' wal_insert
    row 'WAL of a refresh' wal_refresh 'of the HOT update' wal_update
    row 'HOT updates among refreshes' hot
    row 'transaction ids used by authenticate and a guarded read' xids '' '' 'value <= 0'
}

# Samples by how much the SQL expression $3 grows in each of many calls: each NAME UNIT EXPRESSION SPEC
each() {
    local spec before after
    read -ra spec <<<"$4"
    before=$(value "${spec[2]}" "select $3")
    run_pgbench "${spec[@]}" -t "$calls" >/dev/null
    after=$(value "${spec[2]}" "select $3")
    sample "$1" "$2" "($after - $before) / $calls.0"
}

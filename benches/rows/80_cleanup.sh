# Clean-up of half of a million guests, by `call auth.cleanup()`, which commits after each batch, and by the one
# statement that people use; each on a fresh copy of the same database. Sessions go by the extension's own trigger
# in the one statement; the foreign key of `notes` cascades in both, in clean-up as the owner of the table.
needs=expired

delete="delete from auth.users where is_anonymous is true and created_at < now() - interval '90 days'"

run() {
    local rounds=2 expired
    expired=$(words 500000)
    compare expired cleanup cleanup_delete
    row "clean-up of $expired expired guests, of $(words 1000000)" cleanup 'one DELETE on auth.users' cleanup_delete 'ratio <= 1.3'

    say "making the database expired_notes"
    copy expired expired_notes
    database=expired_notes setup notes
    rounds=1
    compare expired_notes cleanup_notes cleanup_notes_delete
    row 'the same, an application table cascading, a row of each guest' cleanup_notes 'one DELETE on auth.users' \
        cleanup_notes_delete 'ratio <= 1.3'
    drop expired_notes
}

copy() { psql -d postgres -c "create database $2 template $1"; }
drop() { psql -d postgres -c "drop database $1 with (force)"; }

# Samples both ways on copies of database $1, as $2 and $3.
compare() {
    local round
    say "measuring $2 $3"
    for ((round = 0; round < rounds; round++)); do
        timed "$1" "$2" 'call auth.cleanup()'
        timed "$1" "$3" "$delete"
    done
}

timed() {
    local start left
    copy "$1" copy
    psql -d postgres -c checkpoint
    start=$EPOCHREALTIME
    psql -d copy -c "$3"
    sample "$2" ms "1000 * ($EPOCHREALTIME - $start)"
    # Not those who have expired meanwhile.
    left=$(value copy "select count(*) from auth.users where created_at < now() - interval '90 days 5 minutes'")
    [ "$left" = 0 ] || { echo "$3 left $left of the expired guests" >&2; return 1; }
    drop copy
}

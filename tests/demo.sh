#!/usr/bin/env bash
# A walk through what anon_auth does, on a throwaway database: the SQL of tests/demo with its real results.
# With KEEP=1, psql is open on the database at the end. Nothing is left behind.
set -euo pipefail
cd "$(dirname "$0")/.."

dir=$(mktemp -d "${TMPDIR:-/tmp}/anon_auth_demo.XXXXXX")
trap 'tests/cluster.sh remove "$dir"' EXIT

settings=$(tests/cluster.sh start "$dir")
while IFS= read -r line; do export "${line?}"; done <<<"$settings"
if [ "$ANON_AUTH_PG_CRON" = no ]; then
    echo "The demo shows clean-up by pg_cron, which this Postgres comes without: use PG=15." >&2
    exit 1
fi

psql() { "$ANON_AUTH_PG_BIN/psql" -X "$@"; }

# Runs chapter $2 as role $1. psql echoes every line before what it does; its own commands are left out. The
# comments are the words in between; in a terminal they stand out.
chapter() {
    local bold='' plain='' line before=''
    [ ! -t 1 ] || bold=$'\e[1;36m' plain=$'\e[0m'
    psql -U "$1" -v ON_ERROR_STOP=1 -P pager=off -q -a <"tests/demo/$2.sql" 2>&1 |
        while IFS= read -r line; do
            case $line in
                \\*) continue ;;
                '-- '*)
                    [[ $before == '-- '* ]] || echo
                    printf '%s%s%s\n' "$bold" "${line#-- }" "$plain"
                    ;;
                *) printf '%s\n' "$line" ;;
            esac
            before=$line
        done
}

wait_for_pg_cron() {
    local seconds
    printf '\n6. CLEAN-UP\npg_cron fires at the full minute; waiting '
    for seconds in {1..150}; do
        if [ "$(psql -At -c "select not exists (select from auth.users where raw_user_meta_data->>'name' = 'Grace')
                and exists (select from cron.job_run_details where status = 'succeeded')")" = t ]; then
            printf ' %s s\n' "$seconds"
            return
        fi
        printf .
        sleep 1
    done
    printf '\nIt did not clean up; the log of the server ends with:\n' >&2
    tail -n 20 "$dir/log" >&2
    return 1
}

chapter postgres 1-database
chapter app 2-guests
wait_for_pg_cron
chapter postgres 3-cleanup

if [ "${KEEP:-}" = 1 ]; then
    printf '\nThe database is yours; \\q ends it.\n'
    psql
else
    printf '\nThat was all; the database is gone. KEEP=1 leaves psql open on it, README.md tells the rest.\n'
fi

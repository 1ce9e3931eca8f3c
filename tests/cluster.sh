#!/usr/bin/env bash
# Throwaway Postgres clusters for the tests, the demo and `make psql`.
#
#   cluster.sh start DIR [NAME=VALUE]...   make a cluster in DIR (or take the one that is there), start it
#   cluster.sh standby DIR NEWDIR          copy the running cluster of DIR to NEWDIR, start it as its standby
#   cluster.sh upgrade DIR NEWDIR [NAME=VALUE]...
#                                          copy the stopped cluster of DIR to NEWDIR by pg_upgrade, start it there
#   cluster.sh stop DIR                    stop it and keep it
#   cluster.sh kill DIR                    kill -9 the postmaster, as in a crash
#   cluster.sh remove DIR                  stop it and delete DIR
#
# NAME=VALUE are further Postgres settings, for a new cluster only. `start`, `standby` and `upgrade` print how to
# connect, as KEY=VALUE lines: PGHOST, PGPORT, PGUSER, PGDATABASE, and ANON_AUTH_PG_BIN (the folder of
# Postgres's programs), ANON_AUTH_RUN_AS (the operating system's user that the server runs as) and
# ANON_AUTH_PG_CRON (yes, or no where this Postgres comes without pg_cron).
#
# A cluster listens on a socket in DIR alone, so that any number can run at once. Everything is in
# DIR: data, socket, log. As root the server runs as the user postgres, or ANON_AUTH_RUN_AS.
# The programs are those of ANON_AUTH_PG_BIN, or of target/pg/15/bin.
set -euo pipefail
umask 022

# A backtrace would end up in a panic's DETAIL; the others would redirect our own connections.
unset RUST_BACKTRACE PGHOST PGPORT PGUSER PGDATABASE PGPASSWORD PGOPTIONS PGSERVICE
export LC_ALL=C

usage() { sed -n '3,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }
fail() { printf 'cluster.sh: %s\n' "$*" >&2; exit 1; }

[ $# -ge 2 ] || usage
command=$1 dir=$(realpath -m "$2")
shift 2

if [ "$(id -u)" = 0 ]; then
    run_as=${ANON_AUTH_RUN_AS:-postgres}
    id "$run_as" >/dev/null 2>&1 || fail "Postgres does not run as root, and there is no user $run_as"
else
    run_as=$(id -un)
fi

# Runs a command as the server's user, in a folder that this user can read.
as_server() {
    if [ "$(id -u)" = 0 ]; then
        (cd / && runuser -u "$run_as" -- "$@")
    else
        (cd / && "$@")
    fi
}

# Prints the folder of Postgres's programs for the cluster in folder $1. A tree that the server's user
# cannot reach, say below /root, is copied into the cluster's folder.
bin_of() {
    local bin=${ANON_AUTH_PG_BIN:-$(dirname "$0")/../target/pg/15/bin} tree
    if [ ! -d "$1/pg" ]; then
        bin=$(realpath "$bin")
        [ -x "$bin/postgres" ] || fail "no Postgres in $bin: run 'make build' first"
        if as_server "$bin/pg_config" --version >/dev/null 2>&1; then
            echo "$bin"
            return
        fi
        # Debian's programs are four levels below their prefix; elsewhere it is one.
        tree=${bin%/bin}
        cp -R "${tree%/lib/postgresql/*}" "$1/pg"
    fi
    realpath "$1/pg/bin"
}

# Makes folder $1, where it is missing, and gives it to the server's user.
make_dir() {
    mkdir -p "$1"
    [ "$(id -u)" != 0 ] || chown "$run_as" "$1"
    # A socket's whole path has at most 107 bytes.
    [ "${#1}" -le 90 ] || fail "the path $1 is too long for a socket; take a shorter one"
    as_server test -w "$1" || fail "the user $run_as cannot reach $1"
}

# Appends NAME=VALUE arguments to the configuration of the cluster in folder $1.
configure() {
    local dir=$1 setting value quote="'"
    shift
    for setting in "$@"; do
        value=${setting#*=}
        printf "%s = '%s'\n" "${setting%%=*}" "${value//$quote/$quote$quote}"
    done | as_server tee -a "$dir/data/postgresql.conf" >/dev/null
}

has_pg_cron() { [ -e "$("$bin/pg_config" --pkglibdir)/pg_cron.so" ]; }

# Starts the server of folder $1 and prints how to connect.
launch() {
    if ! as_server "$bin/pg_ctl" start -w -t 120 -s -D "$1/data" -l "$1/log" >/dev/null 2>&1; then
        tail -n 20 "$1/log" >&2 || true
        fail "Postgres did not start; above is the end of its log, $1/log"
    fi
}

print_settings() {
    printf '%s\n' "PGHOST=$1" PGPORT=5432 PGUSER=postgres PGDATABASE=app "ANON_AUTH_PG_BIN=$bin" \
        "ANON_AUTH_RUN_AS=$run_as" "ANON_AUTH_PG_CRON=$(has_pg_cron && echo yes || echo no)"
}

# Makes the files of a cluster in folder $1. Further arguments are options of initdb.
make_cluster() {
    as_server "$bin/initdb" -D "$1/data" -U postgres -A trust -E UTF8 --no-locale "${@:2}" >"$1/initdb.log" 2>&1 ||
        fail "initdb failed: $(cat "$1/initdb.log")"
}

# Configures the cluster that was just made in folder $1, with NAME=VALUE arguments beside.
configure_new() {
    local dir=$1 settings
    shift
    settings=("listen_addresses=" "unix_socket_directories=$dir" max_connections=120 max_worker_processes=16)
    if has_pg_cron; then
        settings+=("shared_preload_libraries=pg_cron,pg_stat_statements" cron.database_name=app "cron.host=$dir")
    else
        settings+=(shared_preload_libraries=pg_stat_statements)
    fi
    configure "$dir" "${settings[@]}" "$@"
}

start() {
    make_dir "$dir"
    bin=$(bin_of "$dir")
    if [ -e "$dir/data/PG_VERSION" ]; then
        launch "$dir"
    else
        make_cluster "$dir"
        # Before the first start, so that pg_cron's launcher finds its database.
        as_server "$bin/postgres" --single -D "$dir/data" postgres <<<'create database app' >/dev/null 2>&1 ||
            fail "the database app could not be made"
        configure_new "$dir" "$@"
        launch "$dir"
    fi
    print_settings "$dir"
}

standby() {
    local new
    new=$(realpath -m "${1:?NEWDIR is missing}")
    make_dir "$new"
    bin=$(bin_of "$dir")
    as_server "$bin/pg_basebackup" -h "$dir" -U postgres -D "$new/data" -c fast
    # Not through -R: what it writes, the libpq that a server finds at run time may not understand.
    as_server touch "$new/data/standby.signal"
    configure "$new" "unix_socket_directories=$new" "primary_conninfo=host=$dir user=postgres"
    ! has_pg_cron || configure "$new" "cron.host=$new"
    launch "$new"
    for _ in {1..100}; do
        [ -z "$("$bin/psql" -XAtc "select 1 from pg_stat_wal_receiver where status = 'streaming'" \
            -h "$new" -U postgres app)" ] || { print_settings "$new"; return; }
        sleep 0.1
    done
    fail "the standby does not reach its primary; its log is $new/log"
}

upgrade() {
    local new old_bin options=()
    new=$(realpath -m "${1:?NEWDIR is missing}")
    shift
    make_dir "$new"
    # The programs that this cluster was last started with.
    old_bin=$(dirname "$(cut -d ' ' -f 1 "$dir/data/postmaster.opts")")
    bin=$(bin_of "$new")
    # From 18 on a new cluster has checksums unless told, and pg_upgrade goes from like to like.
    [[ $(as_server "$bin/initdb" --help) != *--no-data-checksums* ]] || options+=(--no-data-checksums)
    make_cluster "$new" "${options[@]}"
    configure_new "$new" "$@"
    as_server env --chdir="$new" "$bin/pg_upgrade" -U postgres -s "$new" \
        -b "$old_bin" -B "$bin" -d "$dir/data" -D "$new/data" >"$new/pg_upgrade.log" 2>&1 ||
        fail "pg_upgrade failed: $(tail -n 30 "$new/pg_upgrade.log")"
    launch "$new"
    print_settings "$new"
}

stop() {
    bin=$(bin_of "$dir")
    as_server "$bin/pg_ctl" stop -w -s -m fast -D "$dir/data"
}

# Returns when the last server process is gone, since Postgres does not start again before.
crash() {
    local postmaster children process
    postmaster=$(head -n 1 "$dir/data/postmaster.pid" 2>/dev/null) || fail "no server runs in $dir"
    children=$(pgrep -P "$postmaster" || true)
    kill -KILL "$postmaster"
    for process in $postmaster $children; do
        for _ in {1..200}; do
            kill -0 "$process" 2>/dev/null || continue 2
            sleep 0.05
        done
        fail "process $process of the killed server does not end"
    done
}

running() {
    local postmaster
    postmaster=$(head -n 1 "$dir/data/postmaster.pid" 2>/dev/null) && kill -0 "$postmaster" 2>/dev/null
}

case $command in
    start) start "$@" ;;
    standby) standby "$@" ;;
    upgrade) upgrade "$@" ;;
    stop) stop ;;
    kill) crash ;;
    remove)
        ! running || stop
        rm -rf "$dir"
        ;;
    *) usage ;;
esac

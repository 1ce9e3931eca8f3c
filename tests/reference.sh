#!/usr/bin/env bash
# Prints docs/reference.md as it should be, from the database that PGHOST and the like name, or else from a throwaway
# one with the extension.
set -euo pipefail
umask 022
cd "$(dirname "$0")/.."

if [ -z "${PGHOST:-}" ]; then
    work=$(mktemp -d "${TMPDIR:-/tmp}/anon_auth_reference.XXXXXX")
    chmod a+rx "$work"
    trap 'tests/cluster.sh remove "$work/cluster"; rm -rf "$work"' EXIT
    settings=$(tests/cluster.sh start "$work/cluster")
    while IFS= read -r line; do export "${line?}"; done <<<"$settings"
    "$ANON_AUTH_PG_BIN/psql" -X -q -c 'create extension anon_auth'
fi
"$ANON_AUTH_PG_BIN/psql" -X -q -v ON_ERROR_STOP=1 -f docs/reference.sql

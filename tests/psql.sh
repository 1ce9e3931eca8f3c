#!/usr/bin/env bash
# Opens psql on a throwaway database with the extension; the cluster goes when psql ends.
set -euo pipefail
cd "$(dirname "$0")/.."

dir=$(mktemp -d "${TMPDIR:-/tmp}/anon_auth_psql.XXXXXX")
trap 'tests/cluster.sh remove "$dir"' EXIT

settings=$(tests/cluster.sh start "$dir")
while IFS= read -r line; do export "${line?}"; done <<<"$settings"

psql() { "$ANON_AUTH_PG_BIN/psql" "$@"; }
[ "$ANON_AUTH_PG_CRON" = no ] || psql -X -q -c 'create extension pg_cron'
psql -X -q -c 'create extension anon_auth'
echo "A database with anon_auth. \\dx+ anon_auth shows what is in it, \\q ends it."
psql

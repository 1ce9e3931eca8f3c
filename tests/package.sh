#!/usr/bin/env bash
# Installs the Debian package for Postgres 15 on a clean Debian and runs the SQL tests against the server there.
# Usage, as root: tests/package.sh PACKAGE.deb     It needs debootstrap and the network.
# A clean Debian is a folder with its own file system (chroot): nothing of this machine's Postgres is in it.
set -euo pipefail
umask 022
cd "$(dirname "$0")/.."

package=$(realpath "${1:?usage: tests/package.sh PACKAGE.deb}")
[ "$(id -u)" = 0 ] || { echo "package.sh: only root can change into another root folder" >&2; exit 1; }
command -v debootstrap >/dev/null || apt-get -q -y --no-install-recommends install debootstrap

# Short, since the path of a socket is limited.
root=$(mktemp -d /tmp/deb.XXXXXX)
inside() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"; }
cleanup() {
    inside pg_ctlcluster 15 main stop -m immediate 2>/dev/null || true
    umount "$root/proc" 2>/dev/null || true
    rm -rf "$root"
}
trap cleanup EXIT

debootstrap --variant=minbase bookworm "$root" >"$root.log" 2>&1 || { tail "$root.log" >&2; exit 1; }
rm -f "$root.log"
chmod 755 "$root"
mount -t proc proc "$root/proc"
cp "$package" "$root/package.deb"
printf 'APT::Install-Recommends "false";\nAPT::Sandbox::User "root";\n' >"$root/etc/apt/apt.conf.d/10tests"
inside apt-get -q update
inside apt-get -q -y install /package.deb
inside dpkg -L "$(dpkg-deb -f "$package" Package)"

cat >"$root/etc/postgresql/15/main/conf.d/tests.conf" <<'CONF'
listen_addresses = ''
shared_preload_libraries = 'pg_stat_statements'
max_worker_processes = 16
CONF
echo 'local all all trust' >"$root/etc/postgresql/15/main/pg_hba.conf"
inside pg_ctlcluster 15 main start
export PGHOST=$root/run/postgresql PGUSER=postgres
inside psql -X -U postgres -c 'create database app template template0 encoding UTF8 lc_collate "C" lc_ctype "C"'

bin=target/pg/15/bin
tests=(setup)
for file in tests/sql/*.sql; do
    [ "$file" = tests/sql/setup.sql ] || tests+=("$(basename "$file" .sql)")
done
"$(dirname "$("$bin/pg_config" --pgxs)")/../test/regress/pg_regress" --bindir="$(realpath "$bin")" \
    --inputdir=tests --outputdir=target/test-logs/package --host="$PGHOST" --user=postgres --dbname=app \
    --use-existing "${tests[@]}" || { cat target/test-logs/package/regression.diffs; exit 1; }

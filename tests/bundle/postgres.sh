#!/bin/sh
# The scripts of the chart postgres against a real PostgreSQL: databases made, dumped, lost, restored;
# dumps proven; and every way a dump can be bad. Needs Debian's postgresql.
set -eu
scripts=${SCRIPTS:-$(cd "$(dirname "$0")/../../cluster/charts/postgres/scripts" && pwd)}
PATH=$(find /usr/lib/postgresql -maxdepth 2 -name bin | sort -V | tail -n 1):$PATH
if [ "$(id -u)" -eq 0 ]; then
  # PostgreSQL does not run as root.
  home=$(mktemp -d)
  cp -r "$scripts" "$home/scripts"
  cp "$0" "$home/postgres.sh"
  chown -R nobody "$home"
  trap 'rm -rf "$home"' EXIT
  cd "$home"
  setpriv --reuid nobody --clear-groups env PATH="$PATH" HOME="$home" SCRIPTS="$home/scripts" sh "$home/postgres.sh"
  exit
fi
work=$(mktemp -d)
export PGHOST="$work" PGUSER=postgres PGDATA="$work/data" BACKUPS="$work/backups" TMPDIR="$work"
trap 'pg_ctl --mode immediate stop >/dev/null 2>&1 || true; rm -rf "$work"' EXIT
mkdir "$BACKUPS"
checks=0
ok() { checks=$((checks + 1)); }
fail() { echo "postgres: $*" >&2; exit 1; }
sql() { psql --quiet --no-align --tuples-only --set ON_ERROR_STOP=1 --dbname "$1" --command "$2"; }
refused() { if "$@" >"$work/out" 2>&1; then cat "$work/out" >&2; fail "this went well and should not: $*"; fi; ok; }
is() { [ "$1" = "$2" ] || fail "expected '$2', found '$1'"; ok; }

initdb --username postgres --auth trust --no-sync >/dev/null
echo "local all postgres trust
local all all scram-sha-256" >"$PGDATA/pg_hba.conf"
pg_ctl --wait --log "$work/log" --options "-c listen_addresses='' -c unix_socket_directories='$work' -c fsync=off" start >/dev/null
export DATABASES="n8n" PASSWORD_exporter="it's \"one\"" PASSWORD_n8n='first $HOME'
sh "$scripts/databases.sh" >/dev/null
PASSWORD_n8n=second sh "$scripts/databases.sh" >/dev/null
is "$(PGPASSWORD=second psql -U n8n -d n8n -Atc 'SELECT current_user')" n8n
is "$(PGPASSWORD=$PASSWORD_exporter psql -U exporter -d postgres -Atc 'SELECT count(*) > 0 FROM pg_stat_activity')" t
refused env PGPASSWORD=first psql -U n8n -d n8n -c 'SELECT 1'
is "$(sql postgres "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'n8n'")" n8n

# Rows with what a dump must quote.
PGPASSWORD=second psql -q -U n8n -d n8n -c "CREATE TABLE flow (id int PRIMARY KEY, body text);
  INSERT INTO flow SELECT n, E'tab\t line\n back\\\\ ü ' || n FROM generate_series(1, 1000) n"
sql postgres 'CREATE DATABASE "odd-Name"'
sql odd-Name 'CREATE TABLE "T a" (x int); INSERT INTO "T a" VALUES (1), (2)'
mark() { sql n8n "SELECT md5(string_agg(id || body, ',' ORDER BY id)) FROM flow"; }
before=$(mark)

for round in 1 2 3; do
  KEEP=2 sh "$scripts/backup.sh" >"$work/out"
  mkdir -p "$BACKUPS/.killed.part"
  sleep 1.1
done
is "$(find "$BACKUPS" -maxdepth 1 -name '[0-9]*Z' | wc -l)" 2
KEEP=2 sh "$scripts/backup.sh" >"$work/out"
is "$(find "$BACKUPS" -maxdepth 1 -name '.*.part' | wc -l)" 0
newest=$(find "$BACKUPS" -maxdepth 1 -name '[0-9]*Z' | sort | tail -n 1)
is "$(cat "$newest/databases" | tr '\n' ' ')" "n8n odd-Name postgres "
(cd "$newest" && gzip --test -- *.sql.gz) && ok
# A dump that breaks off leaves no folder.
refused env PGHOST="$work/nowhere" sh "$scripts/backup.sh"
is "$(find "$BACKUPS" -maxdepth 1 -name '[0-9]*Z' | wc -l)" 2

SCRATCH="$work/proof"
mkdir "$SCRATCH"
SCRATCH=$SCRATCH sh "$scripts/verify.sh" >"$work/out" || { cat "$work/out" >&2; fail "a good dump was not proven"; }
grep -q "n8n: 1000 rows in the dump, 1000 in the restored database" "$work/out" && ok
grep -q "odd-Name: 2 rows in the dump, 2" "$work/out" && ok

# Lost, changed and gone; one database alone, then all.
sql postgres "DROP DATABASE n8n"
sql odd-Name 'DELETE FROM "T a"'
DATABASES=n8n sh "$scripts/restore.sh" >"$work/out" || { cat "$work/out" >&2; fail "no restore"; }
is "$(mark)" "$before"
is "$(sql odd-Name 'SELECT count(*) FROM "T a"')" 0
is "$(find "$BACKUPS" -maxdepth 1 -name '[0-9]*Z' | wc -l)" 2
is "$(find "$BACKUPS" -maxdepth 1 -name '[0-9]*Z-before-restore' | wc -l)" 1
# One that is cut half way: the Job's next pod restores the same dump, not that of what was there.
refused env DATABASES="n8n no-such-database" sh "$scripts/restore.sh"
sql n8n "DELETE FROM flow"
sleep 1.1
DATABASES=n8n sh "$scripts/restore.sh" >"$work/out"
is "$(sed -n 's/^restoring from //p' "$work/out")" "$newest"
is "$(mark)" "$before"
# Those of before a restore go in their turn, and never one of the day.
KEEP=2 sh "$scripts/backup.sh" >"$work/out"
is "$(find "$BACKUPS" -maxdepth 1 -name '[0-9]*Z' | wc -l)" 2
is "$(find "$BACKUPS" -maxdepth 1 -name '[0-9]*Z-before-restore' | wc -l)" 2
is "$(find "$newest" -maxdepth 0)" "$newest"
FROM=$(basename "$newest") DATABASES=all SAFETY=no sh "$scripts/restore.sh" >"$work/out"
is "$(sql odd-Name 'SELECT count(*) FROM "T a"')" 2
is "$(PGPASSWORD=second psql -U n8n -d n8n -Atc 'SELECT count(*) FROM flow')" 1000
refused env FROM=1999-01-01T000000Z sh "$scripts/restore.sh"

# A whole server lost: a new one gets all from the dump, roles with their passwords too.
pg_ctl --mode immediate stop >/dev/null
mv "$PGDATA/pg_hba.conf" "$work/"
rm -rf "$PGDATA"
initdb --username postgres --auth trust --no-sync >/dev/null
mv "$work/pg_hba.conf" "$PGDATA/"
pg_ctl --wait --log "$work/log" --options "-c listen_addresses='' -c unix_socket_directories='$work' -c fsync=off" start >/dev/null
FROM=$(basename "$newest") DATABASES=all SAFETY=no sh "$scripts/restore.sh" >"$work/out"
is "$(mark)" "$before"
is "$(PGPASSWORD=second psql -U n8n -d n8n -Atc 'SELECT count(*) FROM flow')" 1000

# Bad dumps: a bit, a statement, a row, a file.
KEEP='' sh "$scripts/backup.sh" >"$work/out"
last=$(find "$BACKUPS" -maxdepth 1 -name '[0-9]*Z' | sort | tail -n 1)
cp -r "$last" "$work/good"
again() { rm -rf "$last" "$work/proof"; cp -r "$work/good" "$last"; mkdir "$work/proof"; }
# The byte is turned into its successor: a fixed one is there already in one dump of 256.
again; { head -c 100 "$work/good/n8n.sql.gz"; tail -c +101 "$work/good/n8n.sql.gz" | head -c 1 | LC_ALL=C tr '\000-\377' '\001-\377\000'; tail -c +102 "$work/good/n8n.sql.gz"; } >"$last/n8n.sql.gz"
refused env SCRATCH="$work/proof" sh "$scripts/verify.sh"
again; gunzip -c "$last/n8n.sql.gz" | sed 's/^CREATE TABLE public.flow/CREATE TABEL public.flow/' | gzip >"$work/n8n" && mv "$work/n8n" "$last/n8n.sql.gz"
(cd "$last" && sha256sum -- *.sql.gz databases >SHA256SUMS)
refused env SCRATCH="$work/proof" sh "$scripts/verify.sh"
again; (gunzip -c "$last/n8n.sql.gz"; echo 'DELETE FROM public.flow WHERE id = 7;') | gzip >"$work/n8n" && mv "$work/n8n" "$last/n8n.sql.gz"
(cd "$last" && sha256sum -- *.sql.gz databases >SHA256SUMS)
refused env SCRATCH="$work/proof" sh "$scripts/verify.sh"
grep -q "n8n: 1000 rows in the dump, 999" "$work/out" && ok
again; rm "$last/odd-Name.sql.gz"
refused env SCRATCH="$work/proof" sh "$scripts/verify.sh"
echo "postgres: $checks checks passed"

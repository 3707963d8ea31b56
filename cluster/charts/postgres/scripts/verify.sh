#!/bin/sh
# Proves the newest dump: restores it into a server of its own in SCRATCH, and compares the rows that
# are in the server with those that are in the dump, database by database.
set -eu
export PGHOST="$SCRATCH" PGUSER=postgres PGDATA="$SCRATCH/data" TMPDIR="$SCRATCH" SAFETY=no FROM=latest DATABASES=all
unset PGPASSWORD
initdb --username postgres --auth trust --no-sync >/dev/null
trap 'pg_ctl --mode immediate stop >/dev/null' EXIT
pg_ctl --wait --log "$SCRATCH/log" start \
  --options "-c listen_addresses='' -c unix_socket_directories='$SCRATCH' -c fsync=off" >/dev/null ||
  { cat "$SCRATCH/log" >&2; exit 1; }
sh "$(dirname "$0")/restore.sh"

folder=$(find "$BACKUPS" -maxdepth 1 -name '[0-9]*Z' | sort | tail -n 1)
while read -r database; do
  dumped=$(gunzip --stdout "$folder/$database.sql.gz" |
    awk '/^COPY .* FROM stdin;$/ {on = 1; next} /^\\\.$/ {on = 0} on {rows++} END {print rows + 0}')
  restored=$(psql --dbname "$database" --no-align --tuples-only <<'SQL'
SELECT coalesce(sum((xpath('/row/n/text()', query_to_xml(
  format('SELECT count(*) AS n FROM ONLY %I.%I', schemaname, tablename), false, true, '')))[1]::text::bigint), 0)
FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema');
SQL
  )
  echo "$database: $dumped rows in the dump, $restored in the restored database"
  [ "$dumped" = "$restored" ] || { echo "the dump of $database does not restore" >&2; exit 1; }
done <"$folder/databases"
echo "proved ${folder##*/}"

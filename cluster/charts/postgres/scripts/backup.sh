#!/bin/sh
# Dumps every database, each as NAME.sql.gz, into a folder named after the time; the folder gets its
# name only when all is there and on the disk. The last KEEP folders of each kind stay, all if KEEP is
# empty. BACKUPS: the folder of folders. KIND: what is added to the name of one that is not the day's.
# PGHOST, PGUSER, PGPASSWORD: the server and its superuser.
set -eu
cd "$BACKUPS"
name=$(date -u +%Y-%m-%dT%H%M%SZ)${KIND:-}
part=.$name.part
# What a killed run left.
rm -rf ./.*.part
mkdir "$part"
pg_dumpall --globals-only --file "$part/globals.sql"
# The superuser stays the one of the server that is restored to.
sed -i '/^\(CREATE\|ALTER\) ROLE postgres\b/d' "$part/globals.sql"
gzip "$part/globals.sql"
psql --dbname template1 --no-align --tuples-only --command \
  "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY 1" >"$part/databases"
while read -r database; do
  echo "dumping $database"
  pg_dump --create --compress 6 --file "$part/$database.sql.gz" --dbname "$database"
done <"$part/databases"
(cd "$part" && sha256sum -- *.sql.gz databases >SHA256SUMS)
sync
mv "$part" "$name"
[ -z "${KEEP:-}" ] || for kind in '[0-9]*Z' '[0-9]*Z-before-restore'; do
  find . -maxdepth 1 -name "$kind" | sort | head -n "-$KEEP" | while read -r old; do
    echo "removing ${old#./}"
    rm -rf "$old"
  done
done
echo "dumped $(wc -l <"$name/databases") databases into $name ($(du -sh "$name" | cut -f1))"

#!/bin/sh
# Puts databases back as they were in a dump: each is dropped, with whoever is connected, and made
# again. Before that it takes a dump of what is there, unless SAFETY is "no"; its folder has a name of its
# own, so that "latest" stays the same dump when a run that was cut short is done again.
# FROM: a folder of BACKUPS, or "latest". DATABASES: names, or "all".
set -eu
export PGOPTIONS="-c client_min_messages=warning"
folder=$BACKUPS/${FROM:-latest}
[ "${FROM:-latest}" != latest ] ||
  folder=$(find "$BACKUPS" -maxdepth 1 -name '[0-9]*Z' | sort | tail -n 1)
[ -d "$folder" ] || { echo "there is no dump ${folder:-in $BACKUPS}" >&2; exit 1; }
echo "restoring from $folder"
(cd "$folder" && sha256sum --check --quiet SHA256SUMS)
[ "${SAFETY:-yes}" = no ] || KEEP="" KIND=-before-restore sh "$(dirname "$0")/backup.sh"

# Roles that are there already are no failure.
gunzip --stdout "$folder/globals.sql.gz" >"${TMPDIR:-/tmp}/globals.sql"
psql --quiet --dbname template1 --file "${TMPDIR:-/tmp}/globals.sql" 2>"${TMPDIR:-/tmp}/errors" || true
if grep ERROR "${TMPDIR:-/tmp}/errors" | grep -v 'already exists'; then
  echo "the roles could not be restored" >&2
  exit 1
fi
databases=${DATABASES:-all}
[ "$databases" != all ] || databases=$(cat "$folder/databases")
for database in $databases; do
  echo "restoring $database"
  psql --quiet --dbname template1 --set ON_ERROR_STOP=1 \
    --command "DROP DATABASE IF EXISTS \"$database\" WITH (FORCE)"
  gunzip --stdout "$folder/$database.sql.gz" >"${TMPDIR:-/tmp}/database.sql"
  psql --quiet --dbname template1 --set ON_ERROR_STOP=1 --file "${TMPDIR:-/tmp}/database.sql" >/dev/null
  rm "${TMPDIR:-/tmp}/database.sql"
done
echo "restored: $(echo $databases)"

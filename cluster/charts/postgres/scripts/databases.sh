#!/bin/sh
# Makes the role and the database of each application, and the exporter's role; sets their passwords
# to those of the Secret. Runs after every change of the release, and changes nothing else.
# DATABASES: names; PASSWORD_NAME: the password of each; PASSWORD_exporter.
set -eu
export PGOPTIONS="-c client_min_messages=warning"
role() {
  eval "password=\$PASSWORD_$1"
  # By the environment: an argument could be read by others.
  role=$1 password=$password psql --quiet --dbname template1 --set ON_ERROR_STOP=1 <<'SQL'
\getenv role role
\getenv password password
SELECT format('CREATE ROLE %I', :'role') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role') \gexec
ALTER ROLE :"role" LOGIN PASSWORD :'password';
SQL
}
for attempt in 1 2 3 4 5 6; do
  pg_isready --quiet && break
  echo "waiting for $PGHOST ($attempt)"
  sleep 5
done
role exporter
psql --quiet --dbname template1 --command "GRANT pg_monitor TO exporter"
for database in $DATABASES; do
  role "$database"
  psql --quiet --dbname template1 --set ON_ERROR_STOP=1 --set database="$database" <<'SQL'
SELECT format('CREATE DATABASE %I OWNER %I', :'database', :'database')
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database') \gexec
SQL
  echo "database $database is there"
done

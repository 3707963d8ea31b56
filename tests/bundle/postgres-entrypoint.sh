#!/bin/sh
# What the official image of PostgreSQL does when it starts, as far as the chart relies on it: makes a
# database cluster where there is none, with the superuser's password from a file, and runs the server.
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  # Word splitting is meant: arguments.
  # shellcheck disable=SC2086
  initdb --username postgres --pwfile "$POSTGRES_PASSWORD_FILE" --auth-local trust --auth-host scram-sha-256 \
    ${POSTGRES_INITDB_ARGS:-}
  echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
fi
exec postgres -c listen_addresses='*' "$@"

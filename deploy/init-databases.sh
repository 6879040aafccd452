#!/bin/sh
# Two databases with a user each: Prefect's own, and the ledger's. PostgreSQL's image runs this once, on an empty volume.
set -eu
psql --no-psqlrc --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
    --set prefect="$PREFECT_DATABASE_PASSWORD" --set ledger="$LEDGER_DATABASE_PASSWORD" <<'SQL'
CREATE ROLE prefect LOGIN PASSWORD :'prefect';
CREATE DATABASE prefect OWNER prefect;
CREATE ROLE rowshot LOGIN PASSWORD :'ledger';
CREATE DATABASE rowshot OWNER rowshot;
SQL

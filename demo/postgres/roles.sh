#!/bin/sh
# The API's role is no superuser, as in production: a superuser would also take the connections that Postgres keeps
# back (superuser_reserved_connections), and the limit would lie elsewhere. pg_monitor: it may see all of pg_stat_activity.
set -eu
psql -v ON_ERROR_STOP=1 -v password="$SHOP_PASSWORD" -q --username="$POSTGRES_USER" --dbname="$POSTGRES_DB" <<'SQL'
CREATE ROLE shop LOGIN PASSWORD :'password' IN ROLE pg_monitor;
ALTER DATABASE shop OWNER TO shop;
SQL

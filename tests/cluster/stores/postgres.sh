# What the official image's entry point does of what the chart asks: make the cluster once, then serve it.
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  new="$PGDATA.new"
  rm -rf "$new" # of a start that was broken off
  initdb --pgdata "$new" --username "$POSTGRES_USER" --pwfile "$POSTGRES_PASSWORD_FILE" --auth scram-sha-256 --encoding UTF8
  echo "host all all all scram-sha-256" >> "$new/pg_hba.conf"
  echo "CREATE DATABASE $POSTGRES_DB;" | postgres --single -D "$new" postgres
  mv "$new" "$PGDATA"
fi
exec postgres -D "$PGDATA" -c listen_addresses='*'

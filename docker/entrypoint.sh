#!/bin/sh
# Reads the database's address from a file where one is given (a Docker secret), then runs a worker or any command.
set -eu
if [ -n "${SCDM_MONGO_URI_FILE:-}" ]; then
  SCDM_MONGO_URI=$(cat "$SCDM_MONGO_URI_FILE")
  export SCDM_MONGO_URI
fi
if [ "${1:-}" = worker ]; then
  : "${SCDM_MONGO_URI:?set SCDM_MONGO_URI or SCDM_MONGO_URI_FILE to the MongoDB of the campaign}"
  config=$(mktemp -d)
  python - "$config" <<'PYTHON'
import sys
from pathlib import Path

from scdm_flows.launch import write_worker_config
from scdm_flows.stores import connect

with connect() as database:
    write_worker_config(database, Path(sys.argv[1]))
PYTHON
  exec rlaunch -c "$config" rapidfire --nlaunches infinite --sleep 10
fi
exec "$@"

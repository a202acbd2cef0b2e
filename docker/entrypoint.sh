#!/bin/sh
# Takes the database's address from a file where one is given (a Docker secret), then runs a worker or any command.
set -eu

fail() {
  echo "scdm-entrypoint: $1" >&2
  exit 2
}

if [ -n "${SCDM_MONGO_URI_FILE:-}" ]; then
  [ -r "$SCDM_MONGO_URI_FILE" ] || fail "SCDM_MONGO_URI_FILE=$SCDM_MONGO_URI_FILE cannot be read by user $(id -u); mount it readable"
  SCDM_MONGO_URI=$(cat "$SCDM_MONGO_URI_FILE")
  export SCDM_MONGO_URI
  unset SCDM_MONGO_URI_FILE # scdm refuses variables that look like misspelt ones
fi

if [ "${1:-}" = worker ]; then
  shift
  [ -n "${SCDM_MONGO_URI:-}" ] || fail "set SCDM_MONGO_URI or SCDM_MONGO_URI_FILE to the MongoDB of the campaigns"
  exec scdm worker --wait "$@"
fi
exec "$@"

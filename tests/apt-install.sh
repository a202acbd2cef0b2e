#!/bin/sh
# Usage: apt-install.sh "COMMANDS" PACKAGE...
# Installs Debian packages that bring the commands, where that disturbs nobody: as root, on Debian or a derivative without
# systemd (a container), and only if they can be had within a minute. Where it does not, it says why and exits 0: the
# tests that want them are then skipped, or fail with REQUIRED=1.
set -u
PATH=$PATH:/usr/sbin
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 # runlevel 1: Debian starts no daemon of a package just installed

commands=$1
shift

skip() {
  echo "not installed: $1" >&2
  exit 0
}

apt() { # SECONDS COMMAND...
  limit=$1
  shift
  timeout --kill-after 5 "$limit" apt-get -q -y -o Acquire::Retries=0 -o Acquire::http::Timeout=10 \
    -o Acquire::https::Timeout=10 "$@" >"$log" 2>&1
}

lacking=
for command in $commands; do
  command -v "$command" >/dev/null || lacking="$lacking $command"
done
[ -n "$lacking" ] || exit 0
[ "$(id -u)" = 0 ] || skip "only root can; apt-get install $*"
command -v apt-get >/dev/null || skip "there is no apt-get here to bring$lacking"
[ ! -d /run/systemd/system ] || skip "left to you where systemd may start daemons; apt-get install $*"

echo "installing $*"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# only downloads are cut off; an installation that has begun is let finish
apt 30 install --no-install-recommends --download-only "$@" \
  || { apt 25 update; apt 30 install --no-install-recommends --download-only "$@"; } \
  || skip "$(tail -n 1 "$log")"
apt 600 install --no-install-recommends --no-download "$@" || skip "$(tail -n 1 "$log")"

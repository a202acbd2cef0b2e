#!/bin/sh
# Installs Debian's Slurm for the test beside it, where that disturbs nobody: as root, on Debian or a derivative without
# systemd (a container), within a minute. Where it does not, it says why and exits 0: the test is then skipped, or fails
# with SLURM=required.
set -u
PATH=$PATH:/usr/sbin
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 # runlevel 1: Debian starts no daemon of a package just installed

skip() {
  echo "Slurm is not installed: $1" >&2
  exit 0
}

apt() { # SECONDS COMMAND...
  limit=$1
  shift
  timeout --kill-after 5 "$limit" apt-get -q -y -o Acquire::Retries=0 -o Acquire::http::Timeout=10 \
    -o Acquire::https::Timeout=10 "$@" >"$log" 2>&1
}

command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v munged >/dev/null && exit 0
[ "$(id -u)" = 0 ] || skip "only root can; apt-get install slurm-wlm munge"
command -v apt-get >/dev/null || skip "there is no apt-get; install slurm-wlm and munge yourself"
[ ! -d /run/systemd/system ] || skip "systemd would start its daemons; apt-get install slurm-wlm munge yourself"

echo "installing slurm-wlm and munge"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
get="install --no-install-recommends slurm-wlm munge"
# only downloads are cut off; an installation that has begun is let finish
apt 30 --download-only $get || { apt 25 update; apt 30 --download-only $get; } || skip "$(tail -n 1 "$log")"
apt 600 --no-download $get || skip "$(tail -n 1 "$log")"

# Shared by scripts/demo and scripts/test: what a bare Debian 12+ or Ubuntu 22.04+ needs. POSIX sh; sourced.
set -eu
cd "$(dirname "$0")/.."
venv=${NEMODEPLOY_VENV:-$PWD/.venv}

say() { printf '== %s\n' "$*" >&2; }

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo >/dev/null 2>&1; then
    sudo "$@"
  else
    say "this needs root or sudo: $*"
    exit 1
  fi
}

# PROGRAM:PACKAGE ...: install the packages whose program is not there.
need_programs() {
  missing=
  for pair in "$@"; do
    PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair#*:}"
  done
  [ -n "$missing" ] || return 0
  say "installing:$missing"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
  # Word splitting is meant: one word a package.
  # shellcheck disable=SC2086
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
}

need_cluster_programs() {
  need_programs slurmctld:slurmctld slurmd:slurmd sbatch:slurm-client munged:munge sshd:openssh-server \
    ssh:openssh-client ip:iproute2 unshare:util-linux
  # llama.cpp's wheel takes the OpenMP library from the system.
  [ -n "$(find /usr/lib /lib -name 'libgomp.so.1' 2>/dev/null | head -n 1)" ] || need_programs no-such-program:libgomp1
}

# For a sandbox with accounting: slurmdbd, MariaDB, and the plugin that joins them.
need_accounting_programs() {
  set -- slurmdbd:slurmdbd mariadbd:mariadb-server mariadb-install-db:mariadb-server
  [ -n "$(find /usr/lib -name accounting_storage_mysql.so 2>/dev/null | head -n 1)" ] ||
    set -- "$@" no-such-program:slurm-wlm-mysql-plugin
  for pair in "$@"; do
    PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%:*}" >/dev/null 2>&1 || { need_programs_stopped "$@"; return; }
  done
}

# PROGRAM:PACKAGE ...: as need_programs, where Debian would start what it installs: a policy of ours forbids that.
need_programs_stopped() {
  policy=/usr/sbin/policy-rc.d
  if [ -e $policy ]; then
    need_programs "$@"
    return
  fi
  printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
  as_root chmod 755 $policy
  failed=
  need_programs "$@" || failed=yes
  as_root rm -f $policy
  [ -z "$failed" ]
}

# A Python of at least 3.10 that can make virtual environments; the system's own before any other.
find_python() {
  for candidate in "${NEMODEPLOY_PYTHON:-}" /usr/bin/python3 python3 python3.13 python3.12 python3.11 python3.10; do
    [ -n "$candidate" ] || continue
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then
      python=$candidate
      return 0
    fi
  done
  return 1
}

# EXTRAS: the virtual environment with this checkout in it; installed into again only when pyproject.toml has changed.
# What is there stays usable meanwhile: somebody may have it in their PATH since the demo.
need_environment() {
  if ! find_python; then
    say "installing Python"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      python3 python3-venv ca-certificates >/dev/null
    find_python || { say "no Python of at least 3.10 could be found"; exit 1; }
  fi
  stamp="$(cksum <pyproject.toml) $PWD"
  case $(cat "$venv/nemodeploy.stamp" 2>/dev/null) in
    "$stamp $1" | "$stamp $1",*) ;; # these extras, or these and more
    *)
      if [ -d "$venv" ] && [ -n "$(ls -A "$venv")" ] && [ ! -e "$venv/nemodeploy.stamp" ]; then
        say "$venv is not ours; name another directory with NEMODEPLOY_VENV"
        exit 1
      fi
      say "installing nemodeploy[$1] into $venv"
      "$venv/bin/python" -c 'import pip, sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1 ||
        "$python" -m venv --clear "$venv"
      : >"$venv/nemodeploy.stamp"
      "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e ".[$1]"
      printf '%s\n' "$stamp $1" >"$venv/nemodeploy.stamp"
      ;;
  esac
}

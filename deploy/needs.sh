# What the scripts of this project need on a bare Debian, installed if it is missing. Sourced, not run.
# shellcheck shell=bash

say() { printf '%s\n' "$*" >&2; }

fail() {
  say "${0##*/}: $*"
  exit 1
}

as_root() {
  if ((EUID == 0)); then "$@"; else sudo "$@"; fi
}

# can_install PACKAGE…: or end, and say what to do.
can_install() {
  command -v apt-get >/dev/null || fail "missing: $*. Install what your system calls so."
  ((EUID == 0)) || command -v sudo >/dev/null || fail "missing: $*. Install it, or run this as root."
}

# install PACKAGE…: by apt; output only if it fails. Services of theirs are not started, now or at the next boot.
install() {
  local log package
  can_install "$@"
  say "installing $* …"
  if ! log=$(
    exec 2>&1
    policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
      trap 'as_root rm -f "$policy"' EXIT
      printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
      as_root chmod 755 "$policy"
    fi
    as_root apt-get update && as_root env DEBIAN_FRONTEND=noninteractive \
      apt-get install --yes --no-install-recommends "$@"
  ); then
    say "$log"
    fail "could not install: $*"
  fi
  # Most packages have none of this name, and some machines no systemd.
  for package in "$@"; do as_root systemctl disable --quiet "$package.service" >/dev/null 2>&1 || true; done
}

# need COMMAND PACKAGE: notes the package in the array packages if there is no such command.
need() {
  command -v "$1" >/dev/null || packages+=("$2")
}

# Sets pg_bin to the programs of the newest PostgreSQL server.
find_postgres() {
  local candidates=()
  mapfile -t candidates < <(printf '%s\n' /usr/lib/postgresql/*/bin | sort --version-sort --reverse)
  if command -v pg_config >/dev/null; then candidates+=("$(pg_config --bindir)"); fi
  for pg_bin in "${candidates[@]}"; do
    [[ -x $pg_bin/initdb && -x $pg_bin/postgres ]] && return
  done
  return 1
}

# What all of it needs beside PostgreSQL and Rust: a C compiler for libraries, and a way to be another user.
need_tools() {
  need cc build-essential
  need make build-essential
  need setpriv util-linux
}

need_postgres() {
  find_postgres && return
  can_install postgresql
  # Debian would make and start a server of its own, which nobody asked for.
  local no_cluster=/etc/postgresql-common/createcluster.d/pgfunnel.conf
  (
    trap 'as_root rm -f "$no_cluster"' EXIT
    as_root mkdir -p "${no_cluster%/*}"
    as_root tee "$no_cluster" >/dev/null <<<'create_main_cluster = false'
    install postgresql
  )
  find_postgres || fail "no PostgreSQL server found after installing it"
}

need_rust() {
  local bin=${CARGO_HOME:-$HOME/.cargo}/bin
  [[ -d $bin ]] && PATH=$PATH:$bin
  if ! command -v cargo >/dev/null; then
    # Debian 12 has neither rustup nor a compiler that is new enough; later ones have rustup.
    [[ -n $(apt-cache --quiet madison rustup 2>/dev/null) ]] ||
      fail "Rust is missing. Install it with rustup (see rustup.rs), then try again."
    install rustup
    rustup default stable >&2
  fi
  local have wanted manifest=${BASH_SOURCE[0]%/*}/../Cargo.toml
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$manifest")
  have=$(cargo --version | cut -d ' ' -f 2)
  [[ $(printf '%s\n' "$wanted" "$have" | sort --version-sort | head -n 1) == "$wanted" ]] ||
    fail "cargo $have is too old: $wanted or newer is needed (rustup update)."
}

# PostgreSQL refuses to run as root. exec, so that the caller's $! is the program itself.
as_postgres() {
  if ((EUID == 0)); then
    exec setpriv --reuid=postgres --regid=postgres --init-groups --reset-env -- "$@"
  else
    exec "$@"
  fi
}

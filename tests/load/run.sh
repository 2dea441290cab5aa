#!/usr/bin/env bash
# Every load figure, one after the other, each against a PostgreSQL of its own; about twelve minutes, less with --quick.
# Needs PostgreSQL (server and pgbench), PgBouncer, Python 3 and openssl. Tables go to stdout, progress to stderr.
# Exit 1 if a limit is exceeded.
#
#   tests/load/run.sh             everything
#   tests/load/run.sh --quick     fewer rounds and clients, for a look: about three minutes
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
compare=() storm=() memory=()
case ${1:-} in
  '') ;;
  --quick)
    compare=(--rounds 3 --clients 16)
    storm=(--environments 500)
    memory=(--clients 2000)
    ;;
  *)
    echo "unknown argument '$1'; usage: tests/load/run.sh [--quick]" >&2
    exit 2
    ;;
esac

cargo build --release --locked --quiet --bin pgfunnel --manifest-path "$here/../../Cargo.toml" || exit 1

status=0
# figure TITLE SECONDS SCRIPT ARGUMENT…: bounded, whatever happens.
figure() {
  local title=$1 limit=$2
  shift 2
  printf '\n## %s\n\n' "$title"
  timeout --kill-after=10 "$limit" python3 "$@" || status=1
}

figure 'CPU per transaction' 420 "$here/compare.py" "${compare[@]}"
figure 'Storms' 420 "$here/storm.py" "${storm[@]}"
figure 'Memory of idle clients' 240 "$here/memory.py" "${memory[@]}"
figure 'Hand-over' 120 "$here/handover.py"
figure 'Streaming' 120 "$here/stream.py"
figure 'Being watched' 180 "$here/watched.py"

printf '\n%s\n' "$( ((status == 0)) && echo 'Every limit is kept.' || echo 'A LIMIT IS EXCEEDED, see above.')"
exit $status

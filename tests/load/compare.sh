#!/usr/bin/env bash
# Every goal of speed and size: pgfunnel beside Debian's PgBouncer and HAProxy, which are installed if they are missing;
# a table with goal, figure and spread, and a chart. Under ten minutes; nothing is left running.
#
#   tests/load/compare.sh                 all rows
#   tests/load/compare.sh cpu login       these rows
#   tests/load/compare.sh --quick         fewer rounds and clients, for a look
#   tests/load/compare.sh --strict        exit 1 if a goal is missed
#   tests/load/compare.sh --plain         what cargo build --release makes, instead of deploy/build.sh
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../../deploy/needs.sh
source "$here/../../deploy/needs.sh"

packages=()
need_postgres
for one in pgbouncer haproxy valgrind strace python3 openssl; do need "$one" "$one"; done
((${#packages[@]} == 0)) || install "${packages[@]}"
need_rust
# The build is not in these ten minutes.
if [[ " $* " == *' --plain '* ]]; then
  cargo build --release --locked --quiet --bin pgfunnel --manifest-path "$here/../../Cargo.toml"
else
  "$here/../../deploy/build.sh"
  export LAB_PGFUNNEL=$here/../../target/pgo/pgfunnel
fi
exec timeout --signal=TERM --kill-after=20 600 python3 "$here/compare.py" "$@"

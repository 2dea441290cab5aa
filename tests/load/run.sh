#!/usr/bin/env bash
# Every load figure: the comparison, and then what has limits of its own, each against a PostgreSQL of its own; about
# twenty minutes, less with --quick. Tables go to stdout, progress to stderr. Exit 1 if a limit is exceeded.
#
#   tests/load/run.sh             everything
#   tests/load/run.sh --quick     fewer rounds and clients, for a look: about five minutes
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
compare=() storm=() memory=()
case ${1:-} in
  '') ;;
  --quick)
    compare=(--quick)
    storm=(--environments 500)
    memory=(--clients 2000)
    ;;
  *)
    echo "unknown argument '$1'; usage: tests/load/run.sh [--quick]" >&2
    exit 2
    ;;
esac

status=0
printf '## Compared\n\n'
# It installs what is missing, and builds.
"$here/compare.sh" "${compare[@]}" || status=1

# figure TITLE SECONDS SCRIPT ARGUMENT…: bounded, whatever happens.
figure() {
  local title=$1 limit=$2
  shift 2
  printf '\n## %s\n\n' "$title"
  timeout --kill-after=10 "$limit" python3 "$@" || status=1
}

figure 'Storms' 420 "$here/storm.py" "${storm[@]}"
figure 'Memory of idle clients' 240 "$here/memory.py" "${memory[@]}"
figure 'Hand-over' 120 "$here/handover.py"
figure 'Streaming' 120 "$here/stream.py"
figure 'Being watched' 180 "$here/watched.py"

printf '\n%s\n' "$( ((status == 0)) && echo 'Every limit is kept.' || echo 'A LIMIT IS EXCEEDED, see above.')"
exit $status

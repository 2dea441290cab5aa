#!/usr/bin/env python3
"""Every goal of speed and size, pgfunnel beside PgBouncer and HAProxy in the same run: a table with goal, figure and
spread, and a chart of CPU per transaction. What cannot be measured is told, and its exit code is 1; a goal that is
missed is told, and is exit code 1 with --strict."""

import argparse
import signal
import sys
import time
import traceback

import per_connection
import per_transaction
from lab import machine, say
from table import Table

ROWS = {
    "cpu": per_transaction.cpu,
    "latency": per_transaction.latency,
    "instructions": per_transaction.instruction_counts,
    "calls": per_transaction.calls,
    "login": per_connection.login,
    "cold": per_connection.cold,
    "idle": per_connection.idle,
    "crowded": per_transaction.crowded,
    "streams": per_transaction.streams,
    "fairness": per_connection.fairness,
    "storms": per_connection.storms,
}
# Seconds of everything, and of one row, which leaves time for the others if it hangs.
LIMIT, ROW_LIMIT = 570, 180


def measure(name, table, args, left):
    """Whether it could be measured."""
    start = time.monotonic()
    signal.alarm(max(1, min(int(left), ROW_LIMIT)))
    try:
        ROWS[name](table, args.quick)
    except (Exception, SystemExit) as error:
        if isinstance(error, SystemExit) and error.code == 143:
            raise  # We were told to go.
        traceback.print_exc()
        return False
    finally:
        signal.alarm(0)
        say(f"{name}: {time.monotonic() - start:.0f} s")
    return True


def out_of_time(*_):
    raise TimeoutError("out of time")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and clients, for a look")
    parser.add_argument("--strict", action="store_true", help="exit 1 if a goal is missed")
    parser.add_argument("--plain", action="store_true", help="what cargo build --release makes, instead of deploy/build.sh")
    args = parser.parse_args()
    unknown = set(args.rows) - set(ROWS)
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))}")

    signal.signal(signal.SIGALRM, out_of_time)
    table, end = Table(), time.monotonic() + LIMIT
    head = machine()
    broken = [name for name in args.rows or ROWS if not measure(name, table, args, end - time.monotonic())]
    print(head, "\n")
    table.show()
    if broken:
        sys.exit(f"could not be measured (see above): {', '.join(broken)}")
    sys.exit(args.strict and bool(table.missed))


if __name__ == "__main__":
    main()

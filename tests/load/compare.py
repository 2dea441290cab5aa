#!/usr/bin/env python3
"""Every goal of speed and size, pgfunnel beside PgBouncer and HAProxy in the same run: a table with goal, figure and
spread, and a chart of CPU per transaction. --strict: exit 1 if a goal is missed."""

import argparse
import sys
import time
import traceback

from lab import machine, say
from rows import ROWS
from table import Table


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="a quarter of the rounds and clients, for a look")
    parser.add_argument("--strict", action="store_true", help="exit 1 if a goal is missed")
    args = parser.parse_args()
    unknown = set(args.rows) - set(ROWS)
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))}")

    table, broken = Table(), []
    for name in args.rows or ROWS:
        start = time.monotonic()
        try:
            ROWS[name](table, args.quick)
        except (Exception, SystemExit):
            # The others are wanted all the same.
            traceback.print_exc()
            broken.append(name)
        say(f"{name}: {time.monotonic() - start:.0f} s")
    print(machine(), "\n")
    table.show()
    if broken:
        sys.exit(f"could not be measured: {', '.join(broken)}")
    sys.exit(args.strict and table.missed > 0)


if __name__ == "__main__":
    main()

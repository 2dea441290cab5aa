#!/usr/bin/env python3
"""User instructions of pgfunnel per transaction of `pgbench -S`, counted by valgrind's callgrind: what a fixed small run
of one worker executes more than a smaller one, so that starting and logging in fall out. Of one client: with more of
them it is the machine's mood how many are served per wake-up. Repeatable to a hundredth, on a busy machine, too.
With --check: exit 1 if one has grown by more than 3 % over instructions.json."""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

from lab import DATABASE, PASSWORD, USER, Lab, say

MODES = ["simple", "extended", "prepared"]
SHORT, LONG = 400, 2_400
# Pairs of such runs, of which the median counts.
PAIRS = 3
BASELINE = Path(__file__).with_name("instructions.json")
# How much more than the baseline is too much.
TOLERANCE = 1.03


def per_transaction(lab, mode, clients=1, pairs=PAIRS):
    """In one process, in which everything has been done once before it is counted."""
    name = f"callgrind.{mode}.{clients}"
    out = lab.dir / name
    under = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}"]
    server = lab.pgfunnel(name, under=under, worker_threads=1, http_listen="off")

    def serve(transactions):
        bench = [lab.bin / "pgbench", "-n", "-S", "-M", mode, "-c", str(clients), "-t", str(transactions // clients)]
        bench += ["-h", "127.0.0.1", "-p", str(server.port), "-U", USER, DATABASE]
        subprocess.run(bench, check=True, capture_output=True, timeout=120, env={**os.environ, "PGPASSWORD": PASSWORD})

    def control(*what):
        subprocess.run(["callgrind_control", *what, str(server.pid)], check=True, capture_output=True, timeout=60)

    serve(LONG)
    control("-i", "on")
    counts = []
    for number, transactions in enumerate([SHORT, LONG] * pairs, start=1):
        serve(transactions)
        control("-d", "counted")
        dump = out.with_name(f"{out.name}.{number}").read_text()
        counts.append(int(re.search(r"^totals: (\d+)", dump, re.MULTILINE)[1]))
    server.stop()
    more = [long - short for short, long in zip(counts[::2], counts[1::2])]
    return round(statistics.median(more) / (LONG - SHORT))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="against the baseline")
    parser.add_argument("--write", action="store_true", help="make what is counted now the baseline")
    args = parser.parse_args()
    with Lab() as lab:
        lab.fill(1)
        found = {mode: per_transaction(lab, mode) for mode in MODES}
    if args.write:
        BASELINE.write_text(json.dumps(found, indent=2) + "\n")
    known = json.loads(BASELINE.read_text())
    grown = [mode for mode in MODES if found[mode] > known[mode] * TOLERANCE]
    for mode in MODES:
        print(f"{mode}: {found[mode]:,} user instructions per transaction, baseline {known[mode]:,}")
    if args.check and grown:
        say(f"more than {TOLERANCE - 1:.0%} over the baseline: {', '.join(grown)}")
        say("Make it cheaper, or, if it is worth that: python3 tests/load/instructions.py --write")
        sys.exit(1)


if __name__ == "__main__":
    main()

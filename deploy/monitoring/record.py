#!/usr/bin/env python3
"""Records a storm for `promtool test rules`: scrapes pgfunnel every 5 s while a command runs and for 90 s behind it.

    python3 deploy/monitoring/record.py http://127.0.0.1:9127/metrics -- \\
        pgfunnel storm -n 60 --rate 60/s --transactions 100 --transaction-ms 300 > series.yml

Only what the rules ask for is kept, and only where it is not the same from the beginning to the end and 0. The output is the
`input_series` of a test file; what must fire is written by hand.
"""

import pathlib
import re
import subprocess
import sys
import time
import urllib.request

EVERY = 5
BEHIND = 90
RULES = pathlib.Path(__file__).with_name("pgfunnel.rules.yml")
SAMPLE = re.compile(r"(pgfunnel_\w+)(?:\{(.*)\})? (\S+)$")


def scrape(url, wanted):
    """The wanted series of one scrape, and their values."""
    with urllib.request.urlopen(url, timeout=4) as answer:
        lines = answer.read().decode().splitlines()
    found = {}
    for name, labels, value in (match.groups() for match in map(SAMPLE.match, lines) if match):
        if name in wanted:
            where = 'job="pgfunnel",instance="recorded"' + ("," + labels if labels else "")
            found[f"{name}{{{where}}}"] = f"{float(value):.6g}"
    return found | {'up{job="pgfunnel",instance="recorded"}': "1"}


def record(url, command):
    """Scrapes before, while and after the command runs."""
    wanted = set(re.findall(r"pgfunnel_\w+", RULES.read_text()))
    start, scrapes, process, end = time.monotonic(), [], None, None
    while end is None or time.monotonic() < end:
        scrapes.append(scrape(url, wanted))
        if len(scrapes) == 3:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        if end is None and process and process.poll() is not None:
            end = time.monotonic() + BEHIND
        time.sleep(max(0, start + len(scrapes) * EVERY - time.monotonic()))
    return scrapes


def compact(values):
    """In promtool's notation: a run of the same value is written once."""
    runs = []
    for value in values:
        if runs and runs[-1][0] == value:
            runs[-1][1] += 1
        else:
            runs.append([value, 0])
    return " ".join(f"{value}x{more}" if more else value for value, more in runs)


def main():
    url, separator, *command = sys.argv[1:]
    if separator != "--" or not command:
        sys.exit(__doc__)
    scrapes = record(url, command)
    print(f"    interval: {EVERY}s\n    input_series:")
    for series in sorted(set().union(*scrapes)):
        values = [seen.get(series, "_") for seen in scrapes]
        if set(values) != {"0"}:
            print(f"      - series: '{series}'\n        values: '{compact(values)}'")


if __name__ == "__main__":
    main()

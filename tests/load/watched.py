#!/usr/bin/env python3
"""What it costs to be watched: CPU of pgfunnel per 1,000 transactions of `pgbench -S -M prepared` with 16 clients, one
pgfunnel that nobody looks at beside one with a scrape each second, a viewer of the live page and thresholds for slow lines;
both take turns in short slices. And how long a scrape of 100 pools takes. Exit 1 if a limit is exceeded."""

import argparse
import contextlib
import http.client
import os
import statistics
import subprocess
import sys
import threading
import time
import urllib.request

from bench import spread, take_turns
from lab import BACKENDS, DATABASE, PASSWORD, USER, Lab, free_port, machine, say
from wire import Client

LIMIT, SCRAPE_LIMIT = 1.02, 0.010
POOLS = 100


def look(port):
    """Somebody who looks at the page, until pgfunnel ends."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        page = urllib.request.urlopen(f"http://127.0.0.1:{port}/events", timeout=30)
        while page.read1(65536):
            pass


def watch(port, stop):
    """A scrape each second, and a viewer."""
    threading.Thread(target=look, args=(port,), daemon=True).start()
    while not stop.wait(1):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read()


def cost(lab, rounds, seconds):
    """Of each round: CPU of the one that is watched over that of the other."""
    port = free_port()
    alone = lab.pgfunnel("alone", http_listen="off")
    watched = lab.pgfunnel("watched", http_listen=f"127.0.0.1:{port}", log_slow_query="1s", log_slow_borrow="1s")
    stop = threading.Event()
    threading.Thread(target=watch, args=(port, stop), daemon=True).start()
    slices = take_turns(lab, [alone, watched], "prepared", 16, rounds, seconds)
    stop.set()
    return [one.cost / other.cost for one, other in zip(slices["watched"], slices["alone"])]


def scrape(lab, rounds):
    """Seconds that each scrape took while 100 pools were there."""
    port = free_port()
    target = {"host": "127.0.0.1", "port": lab.port, "dbname": DATABASE, "tls": "disable"}
    pools = {f"databases__d{n}__{key}": value for n in range(POOLS) for key, value in target.items()}
    server = lab.pgfunnel("pools", http_listen=f"127.0.0.1:{port}", pool_size=1, max_backends=150, **pools)
    clients = [Client(server.port, database=f"d{n}") for n in range(POOLS)]
    for client in clients:
        client.query("select 1")
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read()
        times.append(time.perf_counter() - start)
    found = text.count(b"pgfunnel_pool_size{")
    if found != POOLS:
        sys.exit(f"{found} pools are shown, not {POOLS}")
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of a slice; a scrape comes each second")
    args = parser.parse_args()
    with Lab() as lab:
        fill = [lab.bin / "pgbench", "-i", "-q", "-s", "5", "-h", "127.0.0.1", "-p", str(lab.port), "-U", USER, DATABASE]
        subprocess.run(fill, check=True, capture_output=True, env={**os.environ, "PGPASSWORD": PASSWORD})
        print(machine())
        ratios = cost(lab, args.rounds, args.seconds)
        times = scrape(lab, 50)
    print(f"16 clients, {BACKENDS} backends, {args.rounds} rounds of {args.seconds} s; median (quartiles)\n")
    print("| | | limit |\n|---|---|---|")
    print(f"| CPU per transaction, watched over not watched | {spread(ratios, '{:.3f}'.format)} | {LIMIT} |")
    milliseconds = [time * 1000 for time in times]
    print(f"| scrape of {POOLS} pools, ms | {spread(milliseconds, '{:.1f}'.format)} | {SCRAPE_LIMIT * 1000:.0f} |")
    exceeded = statistics.median(ratios) > LIMIT or statistics.median(times) > SCRAPE_LIMIT
    sys.exit(exceeded)


if __name__ == "__main__":
    main()

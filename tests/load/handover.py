#!/usr/bin/env python3
"""What it costs that a backend changes its client: two clients take turns on the only backend of a pool. Microseconds of
CPU per transaction in pgfunnel and in PostgreSQL, and of wall time; medians of interleaved rounds. The ways differ in what
must be done in between: nothing, cleaning, a reset, other parameters."""

import argparse
import statistics
import sys
import time

from lab import Lab, Server, machine, say
from wire import Client, query_message

QUERY = query_message("select 1")
TURNS = 1000

# Name, settings of pgfunnel, what client 0 and client 1 say first.
WAYS = [
    ('nothing (`hidden_state = "off"`, or a certificate)', {}, ["select 1", "select 1"]),
    ('cleaned (`hidden_state = "clean"`)', {"hidden_state": "clean"}, ["select 1", "select 1"]),
    ('reset (`isolation = "strict"`)', {"isolation": "strict"}, ["select 1", "select 1"]),
    ("three parameters, the same for both", {}, ["set timezone = 'Asia/Tokyo'; set work_mem = '7MB'; set search_path = a"] * 2),
    ("three parameters, others for each", {}, [f"set timezone = 'UTC-{n}'; set work_mem = '{n}MB'; set search_path = a{n}" for n in (1, 2)]),
]


def backend(lab):
    """The only backend's process."""
    pid = int(lab.sql("select pid from pg_stat_activity where usename = 'app'", db="postgres"))
    process = type("Process", (), {"pid": pid})
    return Server("backend", process, 0)


class Way:
    def __init__(self, lab, number):
        self.name, settings, says = WAYS[number]
        self.proxy = lab.pgfunnel(f"pgfunnel-{number}", pool_size=1, **settings)
        self.clients = [Client(self.proxy.port) for _ in says]
        for client, said in zip(self.clients, says):
            client.query(said)
        self.rounds = []

    def turns(self, lab):
        server = backend(lab)
        cpu, theirs, start = self.proxy.cpu(), server.cpu(), time.perf_counter()
        for _ in range(TURNS):
            for client in self.clients:
                client.socket.sendall(QUERY)
                client.until_ready()
        count = TURNS * len(self.clients)
        wall = time.perf_counter() - start
        self.rounds.append([x / count * 1e6 for x in (self.proxy.cpu() - cpu, server.cpu() - theirs, wall)])

    def stop(self):
        for client in self.clients:
            client.socket.close()
        self.proxy.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    figures = {name: [] for name, _, _ in WAYS}
    with Lab() as lab:
        print(machine())
        for number in range(args.rounds):
            say(f"round {number + 1}")
            for at, (name, _, _) in enumerate(WAYS):
                way = Way(lab, at)
                way.turns(lab)
                figures[name] += way.rounds
                way.stop()
                while lab.sql("select count(*) from pg_stat_activity where usename = 'app'", db="postgres") != "0":
                    time.sleep(0.05)
    print("| between two clients | pgfunnel CPU µs | PostgreSQL CPU µs | wall µs |")
    print("|---|---|---|---|")
    base = None
    for name, rounds in figures.items():
        middle = [statistics.median(column) for column in zip(*rounds)]
        base = base or middle
        cells = [f"{value:.0f} ({value - zero:+.0f})" for value, zero in zip(middle, base)]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    sys.exit(main())

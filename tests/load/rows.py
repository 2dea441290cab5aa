"""The rows of `compare.py`: each measures one thing, on a PostgreSQL of its own, and adds what came of it to the table."""

import os
import re
import statistics
import subprocess
import time

import fair
import instructions
import stream
from bench import Bench, take_turns
from lab import BACKENDS, DATABASE, PASSWORD, USER, Lab, say
from memory import measure
from roundtrips import count_round_trips
from storm import storm
from table import median, middle
from wire import Client

MODES = ["simple", "extended", "prepared"]
# Seconds of a slice.
SLICE = 0.25


def ratios(slices, ours, theirs):
    return [one.cost / other.cost for one, other in zip(slices[ours], slices[theirs])]


def cpu(table, quick):
    rounds = 3 if quick else 8
    with Lab() as lab:
        lab.fill()
        one, two = lab.pgfunnel(), lab.pgfunnel("2 workers", worker_threads=2)
        relay, transaction = lab.haproxy(), lab.pgbouncer()
        session = lab.pgbouncer("session", mode="session", backends=64)
        for mode in MODES:
            # PgBouncer 1.18 has prepared statements only in session mode.
            bouncer = session if mode == "prepared" else transaction
            for clients in [16] if quick else [16, 64]:
                say(f"cpu: {mode}, {clients} clients")
                slices = take_turns(lab, [one, two, relay, bouncer], mode, clients, rounds, SLICE)
                title = f"CPU per transaction, {mode}, {clients} clients"
                for server, name in [(one, "pgfunnel"), (two, "2 workers"), (relay, "HAProxy"), (bouncer, "PgBouncer")]:
                    table.bar(f"{title} (us)", name, median([slice.cost for slice in slices[server.name]]))
                for server in (one, two):
                    who = "" if server is one else ", 2 workers"
                    table.at_most(f"{title}{who}: of HAProxy's", ratios(slices, server.name, relay.name), 1.0)
                    goal = None if mode == "prepared" else 0.9
                    against = ratios(slices, server.name, bouncer.name)
                    kept = None if goal is None else median(against) <= goal
                    table.add(f"{title}{who}: of PgBouncer's", middle(against), f"<= {goal}" if goal else "", kept)
                if mode == "simple":
                    throughput(table, slices, clients, bouncer.name)


def throughput(table, slices, clients, bouncer):
    for name, who in [("pgfunnel", ""), ("2 workers", ", 2 workers")]:
        against = [one.rate / other.rate for one, other in zip(slices[name], slices[bouncer])]
        table.add(f"throughput, {clients} clients{who}: of PgBouncer's", middle(against), ">= 1.1", median(against) >= 1.1)


def latency(table, quick):
    rounds = 4 if quick else 12

    def percentiles(slices):
        times = sorted(time for slice in slices for time in slice.latencies)
        cuts = statistics.quantiles(times, n=100)
        return cuts[49], cuts[98]

    with Lab() as lab:
        lab.fill()
        funnel, bouncer = lab.pgfunnel(), lab.pgbouncer()
        say("latency: 1 client")
        alone = take_turns(lab, [lab.postgres, funnel, bouncer], "simple", 1, rounds, SLICE)
        base, ours, theirs = (percentiles(alone[server.name]) for server in (lab.postgres, funnel, bouncer))
        for at, name in enumerate(["p50", "p99"]):
            mine, other = ours[at] - base[at], theirs[at] - base[at]
            figure = f"{mine:.0f} us (PgBouncer {other:.0f})"
            table.add(f"latency added to direct's, 1 client, {name}", figure, "< PgBouncer's", mine < other)
        say("latency: 64 clients")
        crowd = take_turns(lab, [funnel, bouncer], "simple", 64, rounds, SLICE)
        ours, theirs = (percentiles(crowd[server.name]) for server in (funnel, bouncer))
        mine, other = ours[1] / ours[0], theirs[1] / theirs[0]
        table.add("p99 / p50, 64 clients", f"{mine:.2f} (PgBouncer {other:.2f})", "<= PgBouncer's", mine <= other)


def instruction_counts(table, quick):
    with Lab() as lab:
        lab.fill(1)
        for mode, goal in {"simple": 4_000, "extended": None, "prepared": 5_000}.items():
            count = instructions.per_transaction(lab, mode)
            kept = None if goal is None else count <= goal
            table.add(f"user instructions per transaction, {mode}", f"{count:,}", f"<= {goal:,}" if goal else "", kept)


def calls(table, quick):
    """By the kernel's own count, which hardly slows anything down."""
    seconds = 0.5 if quick else 1
    with Lab() as lab:
        lab.fill()
        for server, who in [(lab.pgfunnel(), ""), (lab.pgfunnel("two", worker_threads=2), ", 2 workers")]:
            for clients, goal in {1: 6, 16: 4.2}.items():
                bench = Bench(lab, server, "simple", clients)
                counted = []
                perf = ["perf", "stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p", str(server.pid)]
                perf += ["--", "sleep", str(seconds)]

                def count(_):
                    done = subprocess.run(perf, capture_output=True, text=True, check=True)
                    counted.append(int(re.search(r"^(\d+),", done.stderr, re.MULTILINE)[1]) / seconds)

                for _ in range(3):
                    bench.slice(0, count)
                rates = [slice.rate for slice in bench.results()]
                each = [calls / rate for calls, rate in zip(counted, rates)]
                table.at_most(f"system calls per transaction, {clients} clients{who}", each, goal)


def login(table, quick):
    rounds, logins = (3, 40) if quick else (8, 100)
    for tls, goal in [(False, 0.85), (True, 0.6)]:
        with Lab() as lab:
            servers = [lab.pgfunnel(tls=tls), lab.pgbouncer(tls=tls)]
            costs = {server.name: [] for server in servers}
            for turn in range(rounds + 1):
                for server in servers if turn % 2 else reversed(servers):
                    before = server.cpu()
                    for _ in range(logins):
                        client = Client(server.port, tls)
                        client.query("select 1")
                        client.close()
                    if turn:
                        # The first turn fills caches and pools.
                        costs[server.name].append((server.cpu() - before) / logins * 1e6)
            ours, theirs = costs.values()
            note = f"; {median(ours):.0f} us, PgBouncer {median(theirs):.0f}"
            kind = "TLS" if tls else "plain"
            against = [one / other for one, other in zip(ours, theirs)]
            table.at_most(f"login, first row, close, {kind}: CPU of PgBouncer's", against, goal, note=note)


def cold(table, quick):
    count_round_trips(table)
    environments, rounds = 500, 2 if quick else 3
    options = ["--rate", f"{environments}/0.2s", "--transactions", "0", "--reap-without-fin", "0"]
    with Lab(connections=700) as lab:
        firsts = {"direct": [], "pgfunnel": []}
        funnel = lab.pgfunnel()
        for _ in range(rounds):
            for name, server in [("direct", lab.postgres), ("pgfunnel", funnel)]:
                say(f"cold: {environments} at once, {name}")
                report = storm(lab, server, environments, options)
                if report["failed"]:
                    raise RuntimeError(f"{report['failed']} environments failed: {report['failures']}")
                firsts[name].append(report["connect_ms"]["p99"] + report["first_query_ms"]["p99"])
        ours, direct = median(firsts["pgfunnel"]), median(firsts["direct"])
        figure = f"{ours:.0f} ms (direct {direct:.0f})"
        table.add("first row, 500 at once, p99", figure, "< direct", ours < direct)


def idle(table, quick):
    count = 1_000 if quick else 10_000
    for tls, goal in [(False, 1.5), (True, 12)]:
        with Lab() as lab:
            server = lab.pgfunnel(tls=tls, max_clients=count + 100)
            # With TLS half of them: a Python client takes its time for a handshake.
            clients = count // 2 if tls else count
            before, full, after = measure(server, clients, tls)
            each, left = (full - before) / clients / 1024, (after - before) / 2**20
            kind = "TLS" if tls else "plain"
            figure = f"{each:.2f} KiB; {left:+.1f} MiB when they have left"
            table.add(f"idle client, {kind}, {clients:,} of them", figure, f"<= {goal} KiB", each <= goal)


def crowded(table, quick):
    count, rounds = (1_000, 4) if quick else (10_000, 12)
    with Lab() as lab:
        lab.fill()
        full = lab.pgfunnel("full", max_clients=count + 100)
        empty = lab.pgfunnel("empty", max_clients=count + 100)
        idle = [Client(full.port) for _ in range(count)]
        slices = take_turns(lab, [full, empty], "simple", 16, rounds, SLICE)
        table.at_most(f"CPU per transaction beside {count:,} idle clients", ratios(slices, "full", "empty"), 1.03)
        for client in idle:
            client.close()


def streams(table, quick):
    rounds = 2 if quick else 4
    with Lab() as lab:
        lab.sql("create unlogged table sink (line text)", "alter table sink owner to app")
        servers = [lab.pgfunnel(), lab.pgbouncer(), lab.haproxy()]
        for label, task in [("result", stream.result), ("COPY out", stream.copy_some_out), ("COPY in", stream.copy_some_in)]:
            say(f"streams: {label}")
            costs = {server.name: [] for server in servers}
            for _ in range(rounds):
                for server in servers:
                    with Client(server.port) as client:
                        before = server.cpu()
                        size = task(client)
                        costs[server.name].append((server.cpu() - before) * 1e6 / (size / 2**20))
            ours, bouncer, relay = costs.values()
            note = f"; {median(ours):.0f} us"
            of = lambda others: [one / other for one, other in zip(ours, others)]
            table.at_most(f"100 MB, {label}: CPU per MB of PgBouncer's", of(bouncer), 0.7, note=note)
            table.at_most(f"100 MB, {label}: CPU per MB of HAProxy's", of(relay), 1.3)


def fairness(table, quick):
    with Lab(connections=100) as lab:
        lab.fill()
        server = lab.pgfunnel(pool_size=10, borrow_timeout="30s")
        least, most = fair.shares(lab, server, clients=500, seconds=3 if quick else 8)
        figure = f"{most / least:.3f} ({least} to {most} each)"
        table.add("500 clients on 10 backends: most / least transactions", figure, "<= 1.1", most / least <= 1.1)
        times = fair.refusals(lab, waiting=50)
        figure = f"{min(times):.3f} to {max(times):.3f} s"
        table.add("borrow_timeout of 1 s", figure, "1.00 to 1.02 s", 1.0 <= min(times) and max(times) <= 1.02)


def storms(table, quick):
    for tls, count in [(False, 10_000), (True, 5_000)]:
        count = count // 10 if quick else count
        with Lab() as lab:
            server = lab.pgfunnel(tls=tls, max_clients=count + 100, max_waiting=count)
            options = ["--rate", f"{count}/{1 if quick else 10}s"]
            report = storm(lab, server, count, options, tls)
            kind = "TLS" if tls else "plain"
            figure = f"{report['failed']} failed; connect p99 {report['connect_ms']['p99']:.0f} ms, "
            figure += f"transaction p99 {report['transaction_ms']['p99']:.0f} ms, {report['backends_most']} backends"
            kept = report["failed"] == 0 and report["backends_most"] <= BACKENDS
            table.add(f"storm of {count:,} in {1 if quick else 10} s, {kind}", figure, "0 failed", kept)


ROWS = {
    "cpu": cpu,
    "latency": latency,
    "instructions": instruction_counts,
    "calls": calls,
    "login": login,
    "cold": cold,
    "idle": idle,
    "crowded": crowded,
    "streams": streams,
    "fairness": fairness,
    "storms": storms,
}

"""The rows of `compare.py` about what a connection costs, and crowds of them. Each measures one thing, on a PostgreSQL of
its own, and adds what came of it to the table."""

import re
import time
import urllib.request

import fair
from lab import BACKENDS, Lab, free_port, say
from memory import GIVEN_BACK, KIB, measure
from roundtrips import count_round_trips
from storm import storm
from table import median
from wire import Client


def login(table, quick):
    """One after the other, so that the client is of no account; both poolers have the SCRAM verifier, the client the key."""
    rounds, logins = (3, 40) if quick else (8, 100)
    for tls, goal in [(False, 0.85), (True, 0.6)]:
        kind = "TLS" if tls else "plain"
        say(f"login: {kind}")
        with Lab() as lab:
            servers = [lab.pgfunnel(tls=tls), lab.pgbouncer(tls=tls)]
            costs = {server.name: [] for server in servers}
            for turn in range(rounds + 1):
                for server in servers if turn % 2 else reversed(servers):
                    before = server.cpu()
                    for _ in range(logins):
                        with Client(server.port, tls) as client:
                            client.query("select 1")
                    # The last ones' ends, too.
                    time.sleep(0.05)
                    if turn:
                        # The first turn fills caches and pools.
                        costs[server.name].append((server.cpu() - before) / logins * 1e6)
            ours, theirs = costs.values()
            for server in servers:
                table.bar(f"CPU of login, first row, close, {kind} (us)", server.name, median(costs[server.name]))
            table.at_most(f"CPU of login, first row, close, {kind}: of PgBouncer's", [a / b for a, b in zip(ours, theirs)], goal)


def cold(table, quick):
    count_round_trips(table)
    environments, rounds = 500, 2 if quick else 4
    options = ["--rate", f"{environments}/0.2s", "--transactions", "0", "--reap-without-fin", "0"]
    with Lab(connections=700) as lab:
        funnel = lab.pgfunnel()
        times = [first_row_alone(funnel) for _ in range(30)]
        # What Nagle's algorithm costs, where it is on, is the other side's delayed acknowledgement: 40 ms.
        table.at_most("connect to first row, alone, ms", times[1:], 20)
        firsts = {"postgres": [], "pgfunnel": []}
        for turn in range(rounds):
            for server in (lab.postgres, funnel):
                say(f"cold: {environments} at once, {server.name}, round {turn + 1}")
                report = storm(lab, server, environments, options)
                if report["failed"]:
                    raise RuntimeError(f"{report['failed']} environments failed: {report['failures']}")
                firsts[server.name].append(report["first_row_ms"]["p99"])
        measure = f"connect to first row, {environments} at once, p99, ms"
        table.against(measure, firsts["pgfunnel"], firsts["postgres"], "direct", "{:.0f}")


def first_row_alone(server):
    """Milliseconds."""
    start = time.perf_counter()
    with Client(server.port) as client:
        client.query("select 1")
    return (time.perf_counter() - start) * 1000


def idle(table, quick):
    count = 1_000 if quick else 10_000
    for tls, goal in [(False, 1.5), (True, 12)]:
        with Lab() as lab:
            server = lab.pgfunnel(tls=tls, max_clients=count + 100)
            # With TLS half of them: a Python client takes its time for a handshake.
            clients = count // 2 if tls else count
            each, given_back, left = measure(server, clients, tls)
        who = f"{clients:,} idle clients, {'TLS' if tls else 'plain'}"
        table.add(f"{who}: memory of each (PSS)", f"{each / KIB:.2f} KiB", f"<= {goal} KiB", each <= goal * KIB)
        figure = f"{given_back:.0%} ({left / KIB / KIB:+.1f} MiB are left)"
        table.add(f"{who}: given back when they have left", figure, ">= 90%", given_back >= GIVEN_BACK)


def fairness(table, quick):
    with Lab(connections=100) as lab:
        lab.fill()
        server = lab.pgfunnel(pool_size=10, borrow_timeout="30s")
        say("fairness: 500 clients")
        least, most = fair.shares(lab, server, clients=500, seconds=4 if quick else 10)
        figure = f"{most / max(least, 1):.3f} ({least} to {most} each)"
        table.add("500 clients on 10 backends: most / least transactions", figure, "<= 1.1", most <= least * 1.1)
        times = fair.refusals(lab, waiting=50)
        figure = f"{median(times):.3f} s ({min(times):.3f}-{max(times):.3f})"
        within = 1.0 <= min(times) and max(times) <= 1.02
        table.add("a borrow_timeout of 1 s ends the wait after (all of 50)", figure, "1.00 to 1.02 s", within)


def storms(table, quick):
    for tls, count in [(False, 10_000), (True, 5_000)]:
        count, seconds = (count // 10, 1) if quick else (count, 10)
        who = f"storm of {count:,} in {seconds} s, {'TLS' if tls else 'plain'}"
        say(who)
        with Lab() as lab:
            page = free_port()
            # So many are in front of the last one that the default, 5 s, would refuse some.
            limits = {"max_clients": count + 100, "max_waiting": count, "borrow_timeout": "30s"}
            server = lab.pgfunnel(tls=tls, http_listen=f"127.0.0.1:{page}", **limits)
            report = storm(lab, server, count, ["--rate", f"{count}/{seconds}s"], tls)
            metrics = urllib.request.urlopen(f"http://127.0.0.1:{page}/metrics", timeout=10).read().decode()
        figure = f"{report['failed']} of {count:,}, connect p99 {report['connect_ms']['p99']:.0f} ms"
        for failure in report["failures"]:
            say(f"  {failure}")
        most = report["backends_most"]
        table.add(f"{who}: failed", f"{figure}, {most} backends", "0", report["failed"] == 0 and most <= BACKENDS)
        # First come, first served: at most everybody is in front, and 20 of them at a time are served.
        held = total(metrics, "pgfunnel_lease_held_seconds_sum") / total(metrics, "pgfunnel_lease_held_seconds_count")
        bound = count * held / BACKENDS
        p99 = report["transaction_ms"]["p99"] / 1000
        figure = f"{p99:.2f} s; lease {held * 1000:.1f} ms x {count:,} / {BACKENDS} = {bound:.2f} s"
        table.add(f"{who}: borrow and transaction, p99", figure, "<= what the pool can do", p99 <= bound)


def total(metrics, name):
    """Of all series of that name."""
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", metrics, re.MULTILINE))

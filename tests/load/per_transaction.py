"""The rows of `compare.py` about what a transaction costs. Each measures one thing, on a PostgreSQL of its own, and adds
what came of it to the table."""

import math
import re
import subprocess

import instructions
import stream
from bench import Bench, take_turns
from lab import Lab, say
from table import median
from wire import Client

MODES = ["simple", "extended", "prepared"]
# Seconds of a slice.
SLICE = 0.25


def ratios(slices, ours, theirs):
    """CPU per transaction of one over that of another in the same round; without rounds in which nothing was done."""
    pairs = [(one.cost, other.cost) for one, other in zip(slices[ours], slices[theirs])]
    return [one / other for one, other in pairs if math.isfinite(one) and math.isfinite(other)]


def crowd(clients):
    return f"{clients} client{'s' if clients > 1 else ''}"


def cpu(table, quick):
    rounds = 3 if quick else 8
    with Lab() as lab:
        lab.fill()
        one, two = lab.pgfunnel(worker_threads=1), lab.pgfunnel("2 workers", worker_threads=2)
        relay, relays, transaction = lab.haproxy(), lab.haproxy("haproxy2", threads=2), lab.pgbouncer()
        session = lab.pgbouncer("session", mode="session", backends=64)
        for mode in MODES:
            # PgBouncer 1.18 has prepared statements only in session mode.
            bouncer = session if mode == "prepared" else transaction
            for clients in [16] if quick else [16, 64]:
                say(f"cpu: {mode}, {clients} clients")
                servers = {
                    one: "pgfunnel, 1 worker",
                    two: "pgfunnel, 2 workers",
                    relay: "HAProxy, 1 thread",
                    relays: "HAProxy, 2 threads",
                    bouncer: "PgBouncer",
                }
                slices = take_turns(lab, list(servers), mode, clients, rounds, SLICE)
                title = f"CPU per transaction, {mode}, {clients} clients"
                for server, label in servers.items():
                    table.bar(f"{title} (us)", label, median([slice.cost for slice in slices[server.name]]))
                for server, peer, workers in [(one, relay, "1 worker"), (two, relays, "2 workers")]:
                    who = f"{title}, {workers}"
                    table.at_most(f"{who}: of HAProxy's, as many threads", ratios(slices, server.name, peer.name), 1.0)
                    # PgBouncer has one thread.
                    goal = 0.9 if server is one and bouncer is transaction else None
                    table.at_most(f"{who}: of PgBouncer's", ratios(slices, server.name, bouncer.name), goal)
                if mode == "simple":
                    throughput(table, slices, clients, bouncer.name)


def throughput(table, slices, clients, bouncer):
    """Of the same slices. PostgreSQL and pgbench have the same cores: what a proxy saves, they get."""
    title = f"throughput, simple, {clients} clients"
    for ours, theirs, label, goal in [
        ("pgfunnel", bouncer, "1 worker: of PgBouncer's", 1.1),
        ("2 workers", bouncer, "2 workers: of PgBouncer's", 1.1),
        ("2 workers", "pgfunnel", "2 workers: of 1 worker's", 1.0),
    ]:
        against = [one.rate / other.rate for one, other in zip(slices[ours], slices[theirs]) if other.rate]
        note = f"; {median([slice.rate for slice in slices[ours]]):,.0f}/s"
        table.at_least(f"{title}, {label}", against, goal, note)


def latency(table, quick):
    rounds = 4 if quick else 12
    with Lab() as lab:
        lab.fill()
        funnel, bouncer = lab.pgfunnel(), lab.pgbouncer()
        say("latency: 1 client")
        alone = take_turns(lab, [lab.postgres, funnel, bouncer], "simple", 1, rounds, SLICE)
        for part in (50, 99):
            direct, ours, theirs = (
                [slice.percentile(part) for slice in alone[server.name]] for server in (lab.postgres, funnel, bouncer)
            )
            added = lambda times: [time - base for time, base in zip(times, direct)]
            measure = f"latency added to direct's ({median(direct):.0f} us), 1 client, p{part}, us"
            table.against(measure, added(ours), added(theirs), "PgBouncer", "{:.0f}")
        say("latency: 64 clients")
        together = take_turns(lab, [funnel, bouncer], "simple", 64, rounds, SLICE)
        ours, theirs = (
            [slice.percentile(99) / slice.percentile(50) for slice in together[server.name]] for server in (funnel, bouncer)
        )
        table.against("latency, 64 clients, p99 / p50", ours, theirs, "PgBouncer")


def instruction_counts(table, quick):
    goals = {"simple": 4_000, "extended": None, "prepared": 5_000}
    with Lab() as lab:
        lab.fill(1)
        for mode, goal in goals.items():
            say(f"instructions: {mode}")
            for clients in [1] if quick else [1, 4]:
                count = instructions.per_transaction(lab, mode, clients, pairs=1)
                kept = None if goal is None else count <= goal
                wanted = f"<= {goal:,}" if goal else ""
                table.add(f"user instructions per transaction, {mode}, {crowd(clients)}", f"{count:,}", wanted, kept)


def calls(table, quick):
    seconds = 0.5 if quick else 1
    with Lab() as lab:
        lab.fill()
        count, how = counter(lab)
        funnel, two, bouncer = lab.pgfunnel(), lab.pgfunnel("two", worker_threads=2), lab.pgbouncer()
        for clients, goal in {1: 6, 16: 4.2}.items():
            found = {}
            for server in (funnel, two, bouncer):
                say(f"calls: {clients} clients, {server.name}")
                bench, found[server] = Bench(lab, server, "simple", clients), []
                for _ in range(3):
                    bench.slice(0, lambda _: found[server].append(count(server.pid, seconds)))
                bench.results()
            title, note = f"system calls per transaction, {crowd(clients)}", f"; PgBouncer {median(found[bouncer]):.2f}"
            table.at_most(f"{title}, 1 worker ({how})", found[funnel], goal, note=note)
            table.at_most(f"{title}, 2 workers", found[two], goal)


def counter(lab):
    """What counts system calls per transaction, and its name: perf, which hardly slows the process down, where the kernel
    allows it, else strace, under which everybody waits for the proxy, so that it finds more work at each wake-up.
    Transactions are counted by their sends, two each: the query's and the answer's, none of which can be joined with
    another's. So both are of the same moments exactly."""
    perf = ["perf", "stat", "-x", ",", "-e", "raw_syscalls:sys_enter,syscalls:sys_enter_sendto"]

    def by_perf(pid, seconds):
        done = subprocess.run([*perf, "-p", str(pid), "--", "sleep", str(seconds)], capture_output=True, text=True, check=True)
        calls, sends = (int(number) for number in re.findall(r"^(\d+),", done.stderr, re.MULTILINE))
        return 2 * calls / sends

    def by_strace(pid, seconds):
        out = lab.dir / "strace"
        subprocess.run(
            ["timeout", "-s", "INT", str(seconds), "strace", "-f", "-qq", "-c", "-o", out, "-p", str(pid)], capture_output=True
        )
        counts = {line.split()[-1]: int(line.split()[3]) for line in out.read_text().splitlines() if line[:8].strip()[:1].isdigit()}
        return 2 * counts["total"] / counts["sendto"]

    try:
        subprocess.run([*perf, "true"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return by_strace, "by strace"
    return by_perf, "by perf"


def crowded(table, quick):
    count, rounds = (1_000, 4) if quick else (10_000, 16)
    with Lab() as lab:
        lab.fill()
        full = lab.pgfunnel("full", max_clients=count + 100)
        empty = lab.pgfunnel("empty", max_clients=count + 100)
        idle = [Client(full.port) for _ in range(count)]
        slices = take_turns(lab, [full, empty], "simple", 16, rounds, SLICE)
        table.at_most(f"CPU per transaction, 16 clients, beside {count:,} idle ones", ratios(slices, "full", "empty"), 1.03)
        for client in idle:
            client.close()


def streams(table, quick):
    rounds = 2 if quick else 4
    with Lab() as lab:
        lab.sql("create unlogged table sink (line text)", "alter table sink owner to app")
        servers = [lab.pgfunnel(), lab.pgbouncer(), lab.haproxy()]
        for label, task in [("result", stream.result), ("COPY out", stream.copy_some_out), ("COPY in", stream.copy_some_in)]:
            costs = {server.name: [] for server in servers}
            for turn in range(rounds):
                say(f"streams: {label}, round {turn + 1}")
                for server in servers if turn % 2 == 0 else reversed(servers):
                    with Client(server.port) as client:
                        before = server.cpu()
                        size = task(client)
                        costs[server.name].append((server.cpu() - before) * 1e6 / (size / stream.MB))
            ours, bouncer, relay = costs.values()
            of = lambda others: [one / other for one, other in zip(ours, others)]
            for name, values in [("pgfunnel", ours), ("HAProxy", relay), ("PgBouncer", bouncer)]:
                table.bar(f"CPU per MB, {label} (us)", name, median(values))
            table.at_most(f"100 MB, {label}: CPU per MB of PgBouncer's", of(bouncer), 0.7)
            table.at_most(f"100 MB, {label}: CPU per MB of HAProxy's", of(relay), 1.3)

#!/usr/bin/env python3
"""Storms. First `pgfunnel storm`: 500 and 5,000 environments, five 10 ms transactions each, on 20 backends; nobody may
fail, and PostgreSQL itself refuses a 21st connection (role limit), so that the bound is proved and not sampled.
Then clients that all want `pg_sleep(1)`: exactly those that 20 backends cannot serve within borrow_timeout must get
53300, first come first served, and when their time is up. Exit 1 if anything else happens."""

import argparse
import heapq
import json
import os
import selectors
import statistics
import subprocess
import sys
import time

from lab import BACKENDS, USER, Lab, machine, pgfunnel_binary, say
from wire import Client, ServerError, query_message

BORROW_TIMEOUT = 5.0
# How much later than its deadline a refusal may be read here: timers, and a Python client with thousands of sockets.
LATE = 0.35


def storm(lab, server, environments, options=(), tls=False):
    """One run of `pgfunnel storm`, with its default options and these."""
    command = [pgfunnel_binary(), "storm", "--environments", str(environments), "--json", "--monitor-database", "app"]
    command += options
    env = {**os.environ, "DATABASE_URL": lab.url(server) + ("?sslmode=require" if tls else "")}
    done = subprocess.run([*command, "--monitor-url", lab.monitor_url()], capture_output=True, text=True, env=env)
    if not done.stdout:
        sys.exit(f"the storm through {server.name} broke off:\n{done.stderr}")
    return json.loads(done.stdout)


def refused_by_postgres(lab):
    """Whether PostgreSQL has had to refuse a connection because there were too many."""
    return "too many connections" in (lab.dir / "postgres.log").read_text()


def storms(lab, starters, sizes):
    """Each pooler in turn, alone, since PostgreSQL allows no more backends than one of them may have; of several rounds
    the worst failures and bounds, and the medians of the times."""
    print("| storm through | rounds | failed | backends at most | connect p50 / p99 ms | transaction p50 / p99 ms |")
    print("|---|---|---|---|---|---|")
    good = True
    for environments, rounds in sizes:
        reports = {}
        for number in range(rounds):
            for start in starters:
                server = start()
                say(f"{environments} environments through {server.name}, round {number + 1}")
                report = storm(lab, server, environments)
                server.stop()
                reports.setdefault(server.name, []).append(report)
                for failure in report["failures"]:
                    say(f"  {failure}")
        for name, reports in reports.items():
            middle = lambda what, part: statistics.median(report[what][part] for report in reports)
            failed = max(report["failed"] for report in reports)
            most = max(report["backends_most"] for report in reports)
            print(
                f"| {name}, {environments} | {rounds} | {failed} | {most} "
                f"| {middle('connect_ms', 'p50'):.1f} / {middle('connect_ms', 'p99'):.1f} "
                f"| {middle('transaction_ms', 'p50'):.1f} / {middle('transaction_ms', 'p99'):.1f} |",
                flush=True,
            )
            if name == "pgfunnel":
                good &= failed == 0 and most <= BACKENDS
    refused = refused_by_postgres(lab)
    print(f"\nPostgreSQL had to refuse a connection beyond {BACKENDS}: {'YES' if refused else 'no'}\n")
    return good and not refused


def ask_all(clients, spread):
    """Everyone asks for pg_sleep(1), one after the other within `spread` seconds; for each (asked, answered, code)."""
    outcomes = [None] * len(clients)
    asked = [0.0] * len(clients)
    selector = selectors.DefaultSelector()
    request = query_message("select pg_sleep(1)")
    start, sent, answered = time.monotonic(), 0, 0
    while answered < len(clients):
        now = time.monotonic() - start
        while sent < len(clients) and now >= spread * sent / len(clients):
            asked[sent] = now
            clients[sent].socket.sendall(request)
            selector.register(clients[sent].socket, selectors.EVENT_READ, sent)
            sent, now = sent + 1, time.monotonic() - start
        for key, _ in selector.select(0.001 if sent < len(clients) else 1):
            number = key.data
            selector.unregister(key.fileobj)
            at = time.monotonic() - start
            try:
                clients[number].until_ready()
                code = "00000"
            except ServerError as error:
                code = error.code
            outcomes[number] = (asked[number], at, code)
            answered += 1
    return outcomes


def expected(asked, overhead):
    """How many are served: first come, first served, by BACKENDS servers that take a second and `overhead` each."""
    free = [0.0] * BACKENDS
    served = 0
    for at in asked:
        start = max(at, free[0])
        if start - at <= BORROW_TIMEOUT:
            heapq.heapreplace(free, start + 1 + overhead)
            served += 1
    return served


def sleepers(lab, server, count, spread):
    """Whether exactly the right ones were refused, at the right time."""
    say(f"{count} clients with pg_sleep(1)")
    clients = [Client(server.port) for _ in range(count)]
    # The pool is full of idle backends before the first one asks.
    for client in clients[:BACKENDS]:
        client.socket.sendall(query_message("select pg_sleep(0.2)"))
    for client in clients[:BACKENDS]:
        client.until_ready()
    outcomes = ask_all(clients, spread)
    for client in clients:
        client.socket.close()

    asked = [asked for asked, _, _ in outcomes]
    served = [(asked, answered) for asked, answered, code in outcomes if code == "00000"]
    refused = [(asked, answered) for asked, answered, code in outcomes if code == "53300"]
    waited = [answered - asked for asked, answered in refused]
    # What a transaction costs beyond its second is not known exactly: the count must be one of those between.
    sizes = sorted({expected(asked, overhead / 1000) for overhead in range(0, 41)})
    right = len(served) in sizes and len(served) + len(refused) == count
    # Nobody was served while somebody who had asked before still waited, to be refused in the end.
    fair = all(
        answered - 1 >= before + BORROW_TIMEOUT - LATE for asked, answered in served for before, _ in refused if before < asked
    )
    in_time = all(BORROW_TIMEOUT - 0.005 <= wait <= BORROW_TIMEOUT + LATE for wait in waited)
    times = f"{min(waited):.3f} to {max(waited):.3f} s" if waited else "-"
    print(
        f"| {count} in {spread} s | {len(served)} | {'/'.join(map(str, sizes))} | {len(refused)} | {times} | "
        f"{'right' if right and fair and in_time else f'WRONG: {right=} {fair=} {in_time=}'} |",
        flush=True,
    )
    return right and fair and in_time


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    size = lambda text: tuple(map(int, text.split("x"))) if "x" in text else (int(text), 1)
    parser.add_argument("--environments", type=size, nargs="+", default=[(500, 5), (5000, 1)], metavar="N[xROUNDS]")
    parser.add_argument("--no-pgbouncer", action="store_true", help="pgfunnel alone")
    args = parser.parse_args()

    with Lab() as lab:
        print(machine())
        print(f"{BACKENDS} backends, default limits; environments start at 1,000 per 10 s\n")
        lab.sql(f"alter role {USER} connection limit {BACKENDS}")
        good = storms(lab, [lab.pgfunnel] if args.no_pgbouncer else [lab.pgfunnel, lab.pgbouncer], args.environments)
        funnel = lab.pgfunnel()
        print("| clients with pg_sleep(1) | served | expected | refused with 53300 | after waiting | |")
        print("|---|---|---|---|---|---|")
        for count, spread in [(500, 0.5), (5000, 1.8)]:
            good &= sleepers(lab, funnel, count, spread)
    print("All as it should be" if good else "NOT as it should be")
    sys.exit(not good)


if __name__ == "__main__":
    main()

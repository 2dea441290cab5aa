#!/usr/bin/env python3
"""Memory per idle client: 5,000 clients log in, run one query each and fall silent; what the proxy's proportional set
size (PSS of /proc/PID/smaps_rollup) grew by, per client, and how much of that it gives back after they have left. The
kernel's socket buffers are nobody's PSS. Exit 1 if pgfunnel misses a limit."""

import argparse
import sys
import time

from lab import Lab, machine, say
from wire import Client

KIB = 1024
# pgfunnel's allocator gives freed memory back over the ten seconds after it was freed, in steps of its own; the last of
# them was seen up to twenty seconds after.
SETTLED_AFTER = 12
GIVEN_BACK_AFTER = 20
GIVEN_BACK_WITHIN = 45
# An allocator keeps some pages of which a part is in use.
GIVEN_BACK = 0.9


def measure(server, count, tls):
    """(bytes per client of `count` idle ones, the share of it given back after they left, bytes that are left)."""
    for _ in range(2):
        # The pool is filled and every code path has run once: what comes now is the clients' own.
        warm = [Client(server.port, tls) for _ in range(50)]
        for client in warm:
            client.query("select 1")
        for client in warm:
            client.close()
    time.sleep(2)
    before = server.pss()
    clients = []
    for number in range(count):
        client = Client(server.port, tls)
        client.query("select 1")
        clients.append(client)
        if (number + 1) % 1000 == 0:
            say(f"{server.name}: {number + 1} clients")
    time.sleep(SETTLED_AFTER)
    full = server.pss()
    for client in clients:
        client.close()
    time.sleep(GIVEN_BACK_AFTER)
    deadline = time.monotonic() + GIVEN_BACK_WITHIN - GIVEN_BACK_AFTER
    grown = full - before
    while (left := server.pss() - before) > (1 - GIVEN_BACK) * grown and time.monotonic() < deadline:
        time.sleep(1)
    return grown / count, 1 - left / grown, left


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clients", type=int, default=5000)
    parser.add_argument("--plain-limit", type=float, default=1.5, help="KiB per client")
    parser.add_argument("--tls-limit", type=float, default=12, help="KiB per client")
    parser.add_argument("--only", choices=["pgfunnel", "pgbouncer"])
    args = parser.parse_args()

    failed = False
    with Lab() as lab:
        print(machine())
        print(f"{args.clients} idle clients, PSS\n")
        print("| proxy | per client | given back | left |")
        print("|---|---|---|---|")
        for name in [args.only] if args.only else ["pgfunnel", "pgbouncer"]:
            for tls, limit in [(False, args.plain_limit), (True, args.tls_limit)]:
                label = f"{name}, {'TLS' if tls else 'plain'}"
                server = getattr(lab, name)(f"{name}-tls" if tls else name, tls=tls)
                each, given_back, left = measure(server, args.clients, tls)
                server.stop()
                failed |= name == "pgfunnel" and (each > limit * KIB or given_back < GIVEN_BACK)
                print(f"| {label} | {each / KIB:.2f} KiB | {given_back:.0%} | {left / KIB / KIB:.1f} MiB |", flush=True)
    limits = f"{args.plain_limit:g} KiB plain, {args.tls_limit:g} KiB TLS, {GIVEN_BACK:.0%} given back"
    print(f"\nLimits per client of pgfunnel: {limits}: " + ("MISSED" if failed else "kept"))
    sys.exit(failed)


if __name__ == "__main__":
    main()

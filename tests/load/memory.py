#!/usr/bin/env python3
"""Memory per idle client: 5,000 clients log in, run one query each and fall silent; what the proxy's proportional set
size (PSS of /proc/PID/smaps_rollup) grew by, per client, and what it gives back after they have left. The kernel's
socket buffers are nobody's PSS. Exit 1 if pgfunnel exceeds a limit."""

import argparse
import sys
import time

from lab import Lab, machine, say
from wire import Client

KIB = 1024
# pgfunnel's allocator gives freed memory back over the ten seconds after it was freed, in steps of its own.
SETTLED_AFTER = 12
GIVEN_BACK_AFTER = 20


def measure(server, count, tls):
    """(bytes before, with `count` idle clients, after they left)."""
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
    return before, full, server.pss()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clients", type=int, default=5000)
    parser.add_argument("--plain-limit", type=float, default=2.5, help="KiB per client")
    parser.add_argument("--tls-limit", type=float, default=12, help="KiB per client")
    parser.add_argument("--only", choices=["pgfunnel", "pgbouncer"])
    args = parser.parse_args()

    failed = False
    with Lab() as lab:
        print(machine())
        print(f"{args.clients} idle clients, PSS\n")
        print("| proxy | before | with the clients | per client | after they left |")
        print("|---|---|---|---|---|")
        for name in [args.only] if args.only else ["pgfunnel", "pgbouncer"]:
            for tls, limit in [(False, args.plain_limit), (True, args.tls_limit)]:
                label = f"{name}, {'TLS' if tls else 'plain'}"
                server = getattr(lab, name)(f"{name}-tls" if tls else name, tls=tls)
                before, full, after = measure(server, args.clients, tls)
                server.stop()
                each = (full - before) / args.clients / KIB
                failed |= name == "pgfunnel" and each > limit
                mib = [f"{size / KIB / KIB:.1f} MiB" for size in (before, full, after)]
                print(f"| {label} | {mib[0]} | {mib[1]} | {each:.2f} KiB | {mib[2]} |", flush=True)
    limits = f"{args.plain_limit:g} KiB plain, {args.tls_limit:g} KiB TLS"
    print(f"\nLimits per client of pgfunnel: {limits}: " + ("EXCEEDED" if failed else "kept"))
    sys.exit(failed)


if __name__ == "__main__":
    main()

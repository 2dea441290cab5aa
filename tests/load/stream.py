#!/usr/bin/env python3
"""Streaming in flat memory: a 512 MiB result whose reader takes 1 MB/s, a single row of 256 MiB, and 1 GiB of COPY out
and in. How much the proxy's PSS grew at most meanwhile (sampled every 50 ms), and CPU per GiB beside PgBouncer.
Exit 1 if pgfunnel grows by more than --limit."""

import argparse
import socket
import struct
import sys
import threading
import time

from lab import Lab, machine, say
from wire import Client, ServerError, message, query_message

KIB, MIB, GIB, MB = 1024, 1024**2, 1024**3, 1_000_000
SAMPLING = 0.05
CHUNK = 64 * KIB


class Watch:
    """The most PSS of a server, from entering to leaving, and what it had before; and the CPU it used."""

    def __init__(self, server):
        self.server, self.done = server, threading.Event()

    def __enter__(self):
        self.before = self.most = self.server.pss()
        self.cpu = self.server.cpu()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        return self

    def _run(self):
        while not self.done.wait(SAMPLING):
            self.most = max(self.most, self.server.pss())

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()
        self.cpu = self.server.cpu() - self.cpu

    def grown(self):
        return self.most - self.before


def slow_reader(client, seconds=5, rate=1_000_000):
    """Asks for 512 MiB, reads `rate` bytes per second for a while, and leaves in the middle."""
    client.socket.sendall(query_message("select repeat('x', 1048571) from generate_series(1, 512)"))
    start, got = time.monotonic(), 0
    while (passed := time.monotonic() - start) < seconds:
        if got < passed * rate:
            got += len(client.socket.recv(min(CHUNK, int(passed * rate) - got + 1)))
        else:
            time.sleep(0.005)
    # Unread bytes: the close is an RST, as of a Lambda that timed out.
    client.socket.close()
    return got


def drain(client, sql):
    """Runs a statement and throws its answer away, never holding more than a chunk; bytes received."""
    client.socket.sendall(query_message(sql))
    got, rest, head = 0, 0, bytearray()
    view = memoryview(bytearray(1024 * KIB))
    while True:
        n = client.socket.recv_into(view)
        if n == 0:
            raise ConnectionError("closed by the server")
        got += n
        at = 0
        while at < n:
            if rest:
                skip = min(rest, n - at)
                rest -= skip
                at += skip
                continue
            part = view[at : min(at + 5 - len(head), n)]
            head += part
            at += len(part)
            if len(head) == 5:
                tag, rest = head[:1], struct.unpack_from("!I", head, 1)[0] - 4
                if tag == b"E":
                    raise ServerError(bytes(view[at:n]))
                if tag == b"Z":
                    return got
                head.clear()


def big_row(client):
    return drain(client, "select repeat('x', 268435456)")


def copy_out(client):
    return drain(client, "copy (select repeat('x', 1023) from generate_series(1, 1048576)) to stdout")


def copy_in(client, size=GIB):
    """Rows that PostgreSQL parses and drops, so that the disk has no part in it."""
    client.socket.sendall(query_message("copy sink from stdin where false"))
    while client.read()[0] != b"G":
        pass
    data = message(b"d", (b"x" * 1023 + b"\n") * 64)
    for _ in range(size // (64 * KIB)):
        client.socket.sendall(data)
    client.socket.sendall(message(b"c", b""))
    client.until_ready()
    return size


def result(client):
    """100 MB in rows of 1 kB."""
    return drain(client, "select repeat('x', 1000) from generate_series(1, 100000)")


def copy_some_out(client):
    """100 MB."""
    return drain(client, "copy (select repeat('x', 999) from generate_series(1, 100000)) to stdout")


def copy_some_in(client):
    return copy_in(client, 100 * MB)


TASKS = [
    ("512 MiB result, 1 MB/s for 5 s", slow_reader, 2),
    ("one row of 256 MiB", big_row, 2),
    ("COPY out, 1 GiB", copy_out, 2),
    ("COPY in, 1 GiB", copy_in, 2),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--limit", type=float, default=2, help="MiB that pgfunnel may grow by")
    args = parser.parse_args()

    failed = False
    with Lab() as lab:
        lab.sql("create unlogged table sink (line text)", "alter table sink owner to app")
        print(machine())
        print("Growth of the proxy's PSS at most, and its CPU\n")
        print("| what | pgfunnel | PgBouncer | pgfunnel CPU s/GiB | PgBouncer CPU s/GiB |")
        print("|---|---|---|---|---|")
        servers = [lab.pgfunnel(), lab.pgbouncer()]
        for server in servers:
            with Client(server.port) as client:
                client.query("select repeat('x', 1000000) from generate_series(1, 20)")
        time.sleep(1)
        for label, task, _ in TASKS:
            grown, cost = [], []
            for server in servers:
                say(f"{label}: {server.name}")
                client = Client(server.port)
                client.query("select 1")
                with Watch(server) as watch:
                    got = task(client)
                client.close()
                grown.append(watch.grown() / MIB)
                cost.append(watch.cpu / got * GIB)
            failed |= grown[0] > args.limit
            slow = task is slow_reader
            cpu = ["-" if slow else f"{seconds:.2f}" for seconds in cost]
            print(f"| {label} | {grown[0]:.2f} MiB | {grown[1]:.2f} MiB | {cpu[0]} | {cpu[1]} |", flush=True)
    print(f"\nLimit of pgfunnel's growth: {args.limit:g} MiB: " + ("EXCEEDED" if failed else "kept"))
    sys.exit(failed)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""What `deploy/build.sh` watches a pgfunnel do: train.py BINARY DIRECTORY. Every protocol and kind of transaction that
applications use, logins and TLS among them: what is not seen here is taken to be rare, and made small instead of fast."""

import os
import subprocess
import sys

import stream
from lab import DATABASE, PASSWORD, USER, Lab
from wire import Client

MODES = ["simple", "extended", "prepared"]
# Seconds of each.
LONG, SHORT = 3, 1


def bench(lab, server, seconds, clients, *what, tls=False):
    command = [lab.bin / "pgbench", "-n", "-c", str(clients), "-T", str(seconds), "-h", "127.0.0.1", "-p", str(server.port)]
    env = {**os.environ, "PGPASSWORD": PASSWORD, "PGSSLMODE": "require" if tls else "disable"}
    subprocess.run([*command, "-U", USER, *what, DATABASE], check=True, stdout=subprocess.DEVNULL, env=env)


def main():
    os.environ["LAB_PGFUNNEL"], directory = map(os.path.abspath, sys.argv[1:])
    os.environ["LLVM_PROFILE_FILE"] = f"{directory}/%p.profraw"
    with Lab() as lab:
        lab.fill()
        lab.sql("create unlogged table sink (line text)", f"alter table sink owner to {USER}")
        for tls in [False, True]:
            server = lab.pgfunnel(f"tls {tls}", tls=tls)
            for mode in MODES:
                for clients in [1, 16, 64]:
                    bench(lab, server, SHORT if tls or clients == 1 else LONG, clients, "-S", "-M", mode, tls=tls)
                bench(lab, server, SHORT, 16, "-N", "-M", mode, tls=tls)
            bench(lab, server, LONG, 8, "-S", "-C", tls=tls)
            with Client(server.port, tls) as client:
                for task in [stream.result, stream.copy_some_out, stream.copy_some_in]:
                    task(client)
            # It tells what it has done when it ends.
            server.stop()
    if len(os.listdir(directory)) != 2:
        sys.exit(f"no profiles in {directory}")


main()

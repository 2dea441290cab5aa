"""Whether the queue for backends is fair, and its time limit exact."""

import collections
import os
import subprocess
import threading
import time

from lab import DATABASE, PASSWORD, USER
from wire import Client, ServerError


# Seconds that pgbench takes to log in so many clients; they count towards its duration.
LOGINS = 6


def shares(lab, server, clients, seconds):
    """The fewest and the most transactions of any of so many clients that want a backend all the time."""
    prefix = lab.dir / "shares"
    command = [lab.bin / "pgbench", "-n", "-S", "-c", str(clients), "-j", "1", "-T", str(LOGINS + seconds), "-l", "--log-prefix", prefix]
    command += ["-h", "127.0.0.1", "-p", str(server.port), "-U", USER, DATABASE]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PGPASSWORD": PASSWORD})
    lines = [line.split() for log in lab.dir.glob("shares.*") for line in log.read_text().splitlines()]
    # Not the first second, in which pgbench still sends its clients on their way one by one, and not the last.
    times = [int(fields[4]) for fields in lines]
    within = range(min(times) + 1, max(times))
    counts = collections.Counter(fields[0] for fields, at in zip(lines, times) if at in within)
    return min(counts[str(client)] for client in range(clients)), max(counts.values())


def refusals(lab, waiting):
    """After how many seconds each of so many clients was refused that waited for the one backend."""
    server = lab.pgfunnel("refusing", pool_size=1, borrow_timeout="1s")
    holder = Client(server.port)
    holder.query("begin")
    times = []

    def ask(client):
        start = time.monotonic()
        try:
            client.query("select 1")
        except ServerError as error:
            times.append(time.monotonic() - start)
            if error.code != "53300":
                raise

    clients = [Client(server.port) for _ in range(waiting)]
    threads = [threading.Thread(target=ask, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
        # One by one, so that each is read as soon as it is there.
        time.sleep(0.005)
    for thread in threads:
        thread.join()
    if len(times) != waiting:
        raise RuntimeError(f"{waiting - len(times)} of {waiting} were not refused with 53300")
    return times

"""`pgbench -S` in short slices: servers take turns, so that whatever else the machine does hits them alike."""

import bisect
import collections
import os
import signal
import statistics
import subprocess
import sys
import time
import typing

from lab import DATABASE, PASSWORD, USER

# Seconds that a pgbench runs before its slice counts, and once more before it ends (its log is written in blocks).
SETTLING = 0.1
# Nothing takes as long: pgbench is stopped.
FOREVER = 3600


class Bench:
    """A pgbench that is frozen except during its slices. Its logins are over before the first one, so they are in no
    figure; its log tells which transactions ended in a slice."""

    def __init__(self, lab, server, mode, clients):
        self.server, self.slices = server, []
        prefix = lab.dir / f"{server.name}-{mode}-{clients}"
        # Frozen as it may be, it does not outlive us.
        command = ["setpriv", "--pdeathsig", "KILL", "--", lab.bin / "pgbench", "-n", "-S", "-M", mode, "-c", str(clients), "-j", "1", "-T", str(FOREVER)]
        command += ["-l", "--log-prefix", prefix, "-h", "127.0.0.1", "-p", str(server.port), "-U", USER, DATABASE]
        self.output = open(f"{prefix}.out", "w+")
        env = {**os.environ, "PGPASSWORD": PASSWORD}
        self.process = subprocess.Popen(command, stdout=self.output, stderr=self.output, env=env)
        lab.callback(self.process.kill)
        self.log = prefix.with_name(f"{prefix.name}.{self.process.pid}")
        # pgbench begins when all its clients are logged in.
        while not (self.log.exists() and self.log.stat().st_size):
            self.check()
            time.sleep(0.01)
        self.process.send_signal(signal.SIGSTOP)

    def check(self):
        if self.process.poll() is not None:
            self.output.seek(0)
            sys.exit(f"pgbench through {self.server.name} ended:\n{self.output.read()}")

    def slice(self, seconds, wait=time.sleep):
        """Runs for a while, noting when that was and what it cost the server. `wait`: what is done meanwhile."""
        self.process.send_signal(signal.SIGCONT)
        time.sleep(SETTLING)
        cpu, start = self.server.cpu(), time.time()
        wait(seconds)
        self.slices.append((start, time.time(), self.server.cpu() - cpu))
        self.check()
        self.process.send_signal(signal.SIGSTOP)

    def results(self):
        """Ends it. A Slice for each slice."""
        self.process.send_signal(signal.SIGCONT)
        time.sleep(SETTLING)
        self.process.kill()
        self.process.wait()
        lines = (line.split() for line in self.log.read_text().splitlines()[:-1])
        done = sorted((int(fields[4]) + int(fields[5]) / 1e6, int(fields[2]), fields[0]) for fields in lines)
        self.log.unlink()
        results = []
        for start, end, cpu in self.slices:
            within = done[bisect.bisect(done, (start,)) : bisect.bisect(done, (end,))]
            # A machine too busy for a single transaction would show as no transactions at endless cost.
            cost = cpu / len(within) * 1e6 if within else float("inf")
            shares = collections.Counter(client for _, _, client in within)
            results.append(Slice(len(within) / (end - start), cost, [latency for _, latency, _ in within], shares))
        return results


class Slice(typing.NamedTuple):
    """What happened in one."""

    # Transactions per second.
    rate: float
    # CPU microseconds of the server per transaction.
    cost: float
    # Microseconds that each transaction took.
    latencies: list
    # Transactions of each client that had any.
    shares: collections.Counter

    def percentile(self, part):
        """Microseconds that so many percent of its transactions took at most."""
        return statistics.quantiles(self.latencies, n=100)[part - 1]


def take_turns(lab, servers, mode, clients, rounds, seconds):
    """The slices of each server, by its name."""
    benches = [Bench(lab, server, mode, clients) for server in servers]
    for turn in range(rounds):
        # Not always the same one behind the same other.
        for bench in benches if turn % 2 == 0 else reversed(benches):
            bench.slice(seconds)
    return {bench.server.name: bench.results() for bench in benches}


def spread(values, form):
    """Median and quartiles: what else runs on a machine makes single slices wild."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{form(middle)} ({form(low)}-{form(high)})"

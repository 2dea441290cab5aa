#!/usr/bin/env python3
"""CPU of the proxy per 1,000 transactions of `pgbench -S`: pgfunnel beside PgBouncer, and no proxy at all.

Simple and extended queries: both poolers in transaction mode. Prepared statements: PgBouncer in session mode, since
Debian's 1.18 has none in transaction mode. The three take turns in short slices, so that whatever else the machine
does hits them alike; medians of the rounds, and the ratio of each round. Exit 1 if a median ratio exceeds --limit."""

import argparse
import bisect
import os
import signal
import statistics
import subprocess
import sys
import time

from lab import BACKENDS, DATABASE, PASSWORD, USER, Lab, machine, say

MODES = ["simple", "extended", "prepared"]
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
        command = [lab.bin / "pgbench", "-n", "-S", "-M", mode, "-c", str(clients), "-j", "1", "-T", str(FOREVER)]
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

    def slice(self, seconds):
        """Runs for a while, noting when that was and what it cost the server."""
        self.process.send_signal(signal.SIGCONT)
        time.sleep(SETTLING)
        cpu, start = self.server.cpu(), time.time()
        time.sleep(seconds)
        self.slices.append((start, time.time(), self.server.cpu() - cpu))
        self.check()
        self.process.send_signal(signal.SIGSTOP)

    def results(self):
        """Ends it. Of each slice: (transactions per second, CPU milliseconds of the server per 1,000 transactions)."""
        self.process.send_signal(signal.SIGCONT)
        time.sleep(SETTLING)
        self.process.kill()
        self.process.wait()
        lines = (line.split() for line in self.log.read_text().splitlines()[:-1])
        ends = sorted(int(fields[4]) + int(fields[5]) / 1e6 for fields in lines)
        self.log.unlink()
        results = []
        for start, end, cpu in self.slices:
            count = bisect.bisect(ends, end) - bisect.bisect(ends, start)
            # A machine too busy for a single transaction would show as no transactions at endless cost.
            results.append((count / (end - start), cpu / count * 1e6 if count else float("inf")))
        return results


def spread(values, form):
    """Median and quartiles: what else runs on a machine makes single slices wild."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{form(middle)} ({form(low)}-{form(high)})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.4, help="length of a slice")
    parser.add_argument("--clients", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--limit", type=float, default=1.25, help="largest median ratio pgfunnel / PgBouncer")
    args = parser.parse_args()

    failed = False
    with Lab() as lab:
        fill = [lab.bin / "pgbench", "-i", "-q", "-s", "5", "-h", "127.0.0.1", "-p", str(lab.port), "-U", USER, DATABASE]
        subprocess.run(fill, check=True, capture_output=True, env={**os.environ, "PGPASSWORD": PASSWORD})
        funnel, transaction = lab.pgfunnel(), lab.pgbouncer()
        session = lab.pgbouncer("pgbouncer-session", mode="session", backends=max(args.clients))
        print(machine())
        print(f"pgbench -S -j 1, {BACKENDS} backends, {args.rounds} rounds of {args.seconds} s; median (quartiles)\n")
        print("| mode, clients | CPU ms per 1,000: pgfunnel | PgBouncer | ratio | tps: direct | pgfunnel | PgBouncer |")
        print("|---|---|---|---|---|---|---|")
        for mode in args.modes:
            bouncer = session if mode == "prepared" else transaction
            for clients in args.clients:
                say(f"{mode}, {clients} clients")
                benches = [Bench(lab, server, mode, clients) for server in (lab.postgres, funnel, bouncer)]
                for turn in range(args.rounds):
                    # Not always the same one behind the same other.
                    for bench in benches if turn % 2 == 0 else reversed(benches):
                        bench.slice(args.seconds)
                results = {bench.server.name: bench.results() for bench in benches}
                cpu = {name: [cost for _, cost in slices] for name, slices in results.items()}
                tps = {name: [rate for rate, _ in slices] for name, slices in results.items()}
                ratios = [ours / theirs for ours, theirs in zip(cpu[funnel.name], cpu[bouncer.name])]
                failed |= statistics.median(ratios) > args.limit
                cells = [f"{mode}, {clients}"]
                cells += [spread(cpu[server.name], "{:.1f}".format) for server in (funnel, bouncer)]
                cells += [spread(ratios, "{:.2f}".format)]
                cells += [spread(tps[server.name], "{:,.0f}".format) for server in (lab.postgres, funnel, bouncer)]
                print("| " + " | ".join(cells) + " |", flush=True)
    print(f"\nLimit of the ratio: {args.limit}: " + ("EXCEEDED" if failed else "kept"))
    sys.exit(failed)


if __name__ == "__main__":
    main()

"""Whether the queue for backends is fair, and its time limit exact."""

import threading
import time

from bench import Bench
from wire import Client, ServerError


def shares(lab, server, clients, seconds):
    """The fewest and the most transactions of any of so many clients that want a backend all the time."""
    bench = Bench(lab, server, "simple", clients)
    # In the first slice pgbench still sends its clients on their way one by one.
    bench.slice(1)
    bench.slice(seconds)
    counts = bench.results()[-1].shares
    return min(counts[str(client)] for client in range(clients)), max(counts.values())


def refusals(lab, waiting):
    """After how many seconds each of so many clients was refused that waited for the one backend."""
    server = lab.pgfunnel("refusing", pool_size=1, borrow_timeout="1s")
    holder = Client(server.port)
    holder.query("begin; select 1")
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

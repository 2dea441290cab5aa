"""psycopg with the latest protocol that its libpq (18 or newer) knows: 3.2, whose cancel keys are longer.

Usage: psycopg_protocol_3_2.py DSN CLIENTS. Prints "ok" when every client has run a query and cancelled some.
"""

import sys
import threading

import psycopg
from psycopg import errors

DSN, CLIENTS = sys.argv[1], int(sys.argv[2])


def cancelled(conn, cancel):
    """Runs a long query, cancelled by a thread as soon as it runs."""
    over = threading.Event()

    def keep_cancelling():
        while not over.wait(0.1):
            cancel()

    canceller = threading.Thread(target=keep_cancelling)
    canceller.start()
    try:
        conn.execute("select pg_sleep(60)")
    except errors.QueryCanceled:
        pass
    else:
        raise AssertionError("not cancelled")
    finally:
        over.set()
        canceller.join()


def main():
    assert psycopg.pq.version() >= 180000, psycopg.pq.version()
    conns = [psycopg.connect(DSN, autocommit=True, max_protocol_version="latest") for _ in range(CLIENTS)]
    for number, conn in enumerate(conns):
        assert conn.pgconn.full_protocol_version == 30002, conn.pgconn.full_protocol_version
        assert conn.execute("select %s::int", (number,), prepare=True).fetchone() == (number,)
    conn = conns[0]
    # libpq's two ways: PQcancelStart and PQcancel.
    for cancel in (conn.cancel_safe, conn.cancel):
        cancelled(conn, cancel)
    # A cancel that came too late is of no consequence.
    assert conn.execute("select 'well'").fetchone() == ("well",)
    print("ok")


main()

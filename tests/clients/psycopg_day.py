"""A day's work with psycopg 3: transactions, prepared statements, COPY, cancel, errors, pipelines, cursors.

Usage: psycopg_day.py DSN CLIENTS. Prints "ok" when every client has seen what PostgreSQL promises.
"""

import sys
import threading
import time

import psycopg
from psycopg import errors
from psycopg.types.json import Jsonb

DSN, CLIENTS = sys.argv[1], int(sys.argv[2])
TABLE = "psycopg_day"


def transactions(conn, client):
    with conn.transaction():
        conn.execute(f"insert into {TABLE} values (%s, 1, 'kept')", (client,))
        try:
            with conn.transaction():  # a savepoint
                conn.execute(f"insert into {TABLE} values (%s, 2, 'lost')", (client,))
                conn.execute("select 1 / 0")
        except errors.DivisionByZero:
            pass
        conn.execute(f"insert into {TABLE} values (%s, 3, 'kept')", (client,))
    try:
        with conn.transaction():
            conn.execute(f"insert into {TABLE} values (%s, 4, 'lost')", (client,))
            raise KeyError("changed my mind")
    except KeyError:
        pass
    rows = conn.execute(f"select n from {TABLE} where client = %s order by n", (client,)).fetchall()
    assert rows == [(1,), (3,)], rows


def prepared(conn, client):
    for number in range(40):
        row = conn.execute("select %s::int + %s::int, %s::text", (client, number, f"x{number}"), prepare=True).fetchone()
        assert row == (client + number, f"x{number}"), row
        row = conn.execute(f"select {client} * 2 + %s::int", (number,), prepare=True).fetchone()
        assert row == (client * 2 + number,), row
    # More statements than psycopg keeps: it closes the oldest.
    for number in range(conn.prepared_max + 20):
        assert conn.execute(f"select {number}", prepare=True).fetchone() == (number,)
    assert conn.execute("select %s::jsonb -> 'a'", (Jsonb({"a": [client]}),), binary=True).fetchone() == ([client],)


def copies(conn, client):
    with conn.cursor() as cur:
        with cur.copy(f"copy {TABLE} from stdin") as copy:
            for number in range(10, 210):
                copy.write_row((client, number, "copied\t\\ ä"))
        try:
            with cur.copy(f"copy {TABLE} from stdin") as copy:
                copy.write_row((client, 10, "twice"))
        except errors.UniqueViolation:
            pass
        else:
            raise AssertionError("no unique violation")
        try:
            with cur.copy(f"copy {TABLE} from stdin") as copy:
                copy.write_row((client, 999, "never"))
                raise KeyError("changed my mind")
        except KeyError:
            pass
        with cur.copy(f"copy (select n, t from {TABLE} where client = {client} and n >= 10 order by n) to stdout") as copy:
            rows = list(copy.rows())
    assert len(rows) == 200 and rows[0] == ("10", "copied\t\\ ä"), rows[:2]


def mistakes(conn, client):
    for sql, error in [
        ("selec 1", errors.SyntaxError),
        ("select * from nowhere", errors.UndefinedTable),
        ("select 1 / 0", errors.DivisionByZero),
        (f"insert into {TABLE} values ({client}, 1, 'twice')", errors.UniqueViolation),
    ]:
        try:
            conn.execute(sql)
        except error:
            pass
        else:
            raise AssertionError(sql)
    conn.autocommit = False
    conn.execute("select 1")
    try:
        conn.execute("select 1 / 0")
    except errors.DivisionByZero:
        pass
    try:
        conn.execute("select 1")
    except errors.InFailedSqlTransaction:
        pass
    conn.rollback()
    conn.autocommit = True


def pipelines(conn, client):
    with conn.pipeline():
        cursors = [conn.execute("select %s::int", (client + number,)) for number in range(50)]
    assert [cursor.fetchone()[0] for cursor in cursors] == [client + number for number in range(50)]
    try:
        with conn.pipeline() as pipeline:
            first = conn.execute("select 1")
            pipeline.sync()
            conn.execute("select 1 / 0")
            conn.execute("select 3")
    except errors.DivisionByZero:
        assert first.fetchone() == (1,)
    else:
        raise AssertionError("no error in the pipeline")


def cursors(conn, client):
    with conn.transaction(), conn.cursor(name=f"c{client}") as cur:
        cur.itersize = 100
        cur.execute("select generate_series(1, 1000)")
        assert sum(row[0] for row in cur) == 500500
    with conn.cursor() as cur:
        cur.executemany(f"insert into {TABLE} values (%s, %s, 'many')", [(client, 1000 + n) for n in range(100)])
        assert cur.rowcount == 100
    streamed = conn.cursor().stream("select generate_series(1, 500)")
    assert sum(row[0] for row in streamed) == 125250


def cancels(conn, client):
    start = time.monotonic()
    timer = threading.Timer(0.3, conn.cancel_safe)
    timer.start()
    try:
        conn.execute("select pg_sleep(30)")
    except errors.QueryCanceled:
        pass
    else:
        raise AssertionError("not cancelled")
    timer.join()
    assert time.monotonic() - start < 25
    assert conn.execute("select 1").fetchone() == (1,)


def day(client, failures):
    try:
        with psycopg.connect(DSN, autocommit=True, application_name=f"psycopg-{client}") as conn:
            assert conn.execute("show application_name").fetchone() == (f"psycopg-{client}",)
            for work in (transactions, prepared, copies, mistakes, pipelines, cursors):
                work(conn, client)
            if client % 8 == 0:
                cancels(conn, client)
            assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    except BaseException as failure:  # whatever it is, it must be seen
        failures.append(f"client {client}: {type(failure).__name__}: {failure}")
        raise


def main():
    with psycopg.connect(DSN, autocommit=True) as conn:
        conn.execute(f"create table {TABLE} (client int, n int, t text, primary key (client, n))")
    failures = []
    threads = [threading.Thread(target=day, args=(client, failures)) for client in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with psycopg.connect(DSN, autocommit=True) as conn:
        count = conn.execute(f"select count(*) from {TABLE}").fetchone()[0]
        conn.execute(f"drop table {TABLE}")
    if failures:
        sys.exit("\n".join(failures))
    assert count == CLIENTS * (2 + 200 + 100), count
    print("ok")


main()

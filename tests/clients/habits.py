"""What drivers, ORMs and frameworks say besides their users' queries: preambles at connect, resets between two users of a
pooled connection, search paths, prepared statements. Each habit is one client's; all run at once, and each client must
find its own session whenever it looks.

Usage: habits.py URL CLIENTS. Prints "ok" when every client has seen what PostgreSQL promises.
"""

import asyncio
import sys
import threading

import asyncpg
import django
import psycopg
import sqlalchemy
from django.conf import settings
from sqlalchemy.ext.asyncio import create_async_engine

URL, CLIENTS = sys.argv[1], int(sys.argv[2])
ROUNDS = 12
ZONES = ["UTC", "Asia/Tokyo", "Europe/Paris", "America/New_York"]
parts = sqlalchemy.engine.make_url(URL)


def rails(number):
    """ActiveRecord's `configure_connection`."""
    zone = ZONES[number % 4]
    with psycopg.connect(URL, autocommit=True) as conn:
        conn.execute("SET client_min_messages TO 'warning'")
        conn.execute("SET standard_conforming_strings = on")
        conn.execute("SET intervalstyle = iso_8601")
        conn.execute(f"SET SESSION timezone TO '{zone}'")
        for _ in range(ROUNDS):
            row = conn.execute("SELECT current_setting('timezone'), current_setting('intervalstyle')").fetchone()
            assert row == (zone, "iso_8601"), row
            with conn.transaction():
                conn.execute("INSERT INTO habits VALUES (%s, 'rails')", [number])


def prisma(number):
    """A schema of its own by search_path, and prepared statements from then on."""
    with psycopg.connect(URL, autocommit=True, prepare_threshold=0) as conn:
        conn.execute(f'SET search_path = "schema_{number % 4}"')
        for _ in range(ROUNDS):
            assert conn.execute("SELECT whose FROM habit").fetchone() == (number % 4,)


def npgsql(number):
    """A pooled connection is reset by the first command of its next user."""
    with psycopg.connect(URL, autocommit=True, prepare_threshold=None) as conn:
        for round in range(ROUNDS):
            conn.execute(f"SET app.visitor = 'user {number}.{round}'")
            assert conn.execute("SELECT current_setting('app.visitor')").fetchone() == (f"user {number}.{round}",)
            conn.execute("DISCARD ALL")
            assert conn.execute("SELECT coalesce(nullif(current_setting('app.visitor', true), ''), 'none')").fetchone() == ("none",)


def row_level_security(number):
    """A tenant for a transaction, and one for the session."""
    with psycopg.connect(URL, autocommit=True) as conn:
        conn.execute("SELECT set_config('app.tenant', %s, false)", [f"tenant-{number}"])
        for _ in range(ROUNDS):
            with conn.transaction():
                conn.execute("SET LOCAL statement_timeout = '30s'")
                assert conn.execute("SELECT current_setting('app.tenant')").fetchone() == (f"tenant-{number}",)


def alchemy(number):
    """SQLAlchemy's pool: rollback at return, isolation levels, a hint for the planner."""
    engine = sqlalchemy.create_engine(parts.set(drivername="postgresql+psycopg"), pool_size=1, isolation_level="REPEATABLE READ")
    for _ in range(ROUNDS):
        with engine.begin() as conn:
            assert conn.scalar(sqlalchemy.text("show transaction_isolation")) == "repeatable read"
            conn.execute(sqlalchemy.text("insert into habits values (:n, 'alchemy')"), {"n": number})
        with engine.connect() as conn:
            assert conn.scalar(sqlalchemy.text("select count(*) from habits where n = :n"), {"n": number}) > 0
    engine.dispose()


def django_orm(number):
    from django.db import connection

    with connection.cursor() as cursor:
        for _ in range(ROUNDS):
            cursor.execute("SELECT current_setting('timezone'), %s", [number])
            assert cursor.fetchone() == ("Europe/Vienna", number)
    connection.close()


async def alchemy_async(number):
    engine = create_async_engine(parts.set(drivername="postgresql+asyncpg"), pool_size=1)
    for _ in range(ROUNDS):
        async with engine.begin() as conn:
            assert await conn.scalar(sqlalchemy.text("select cast(:n as int)"), {"n": number}) == number
    await engine.dispose()


async def asyncpg_pool(number):
    """Its reset: SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL."""
    async with asyncpg.create_pool(URL, min_size=1, max_size=1, server_settings={"timezone": ZONES[number % 4]}) as pool:
        for _ in range(ROUNDS):
            async with pool.acquire() as conn:
                assert await conn.fetchval("show timezone") == ZONES[number % 4]
                await conn.execute("SET work_mem = '7MB'")
                assert await conn.fetchval("show work_mem") == "7MB"
            async with pool.acquire() as conn:
                assert await conn.fetchval("show work_mem") == "4MB"


def psycopg_listener(number):
    """Waits for its own notifications by psycopg's generator, and knows them by their process id."""
    with psycopg.connect(URL, autocommit=True) as conn:
        conn.execute(f"LISTEN habit_{number}")
        for round in range(ROUNDS):
            conn.execute(f"NOTIFY habit_{number}, '{round}'")
            notice = next(conn.notifies(timeout=20))
            assert (notice.payload, notice.pid) == (str(round), conn.info.backend_pid), notice
        conn.execute("UNLISTEN *")


async def asyncpg_listener(number):
    """Listens on one connection for what others say on theirs."""
    listener, speaker = await asyncpg.connect(URL), await asyncpg.connect(URL)
    heard = asyncio.Queue()
    await listener.add_listener(f"habit_{number}", lambda conn, pid, channel, payload: heard.put_nowait(payload))
    for round in range(ROUNDS):
        await speaker.execute("SELECT pg_notify($1, $2)", f"habit_{number}", str(round))
        assert await asyncio.wait_for(heard.get(), 20) == str(round)
        assert await listener.fetchval("SELECT $1::int", round) == round
    await listener.close()
    await speaker.close()


def main():
    with psycopg.connect(URL, autocommit=True) as conn:
        conn.execute("CREATE TABLE habits (n int, who text)")
        for number in range(4):
            conn.execute(f"CREATE SCHEMA schema_{number}")
            conn.execute(f"CREATE TABLE schema_{number}.habit AS SELECT {number} AS whose")
    database = {"ENGINE": "django.db.backends.postgresql", "NAME": parts.database, "USER": parts.username}
    database |= {"PASSWORD": parts.password, "HOST": parts.host, "PORT": parts.port}
    settings.configure(DATABASES={"default": database}, USE_TZ=False, TIME_ZONE="Europe/Vienna")
    django.setup()

    habits = [rails, prisma, npgsql, row_level_security, alchemy, django_orm, alchemy_async, asyncpg_pool]
    habits += [psycopg_listener, asyncpg_listener]
    failures = []

    def client(number):
        habit = habits[number % len(habits)]
        try:
            if asyncio.iscoroutinefunction(habit):
                asyncio.run(habit(number))
            else:
                habit(number)
        except BaseException as error:  # noqa: BLE001 - reported below
            failures.append(f"{habit.__name__} {number}: {error!r}")

    threads = [threading.Thread(target=client, args=[number]) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        sys.exit("\n".join(failures))
    print("ok")


main()

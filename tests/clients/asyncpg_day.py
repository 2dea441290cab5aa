"""A day's work with asyncpg: transactions, prepared statements, COPY, cancel, errors, cursors, LISTEN, its pool.

Usage: asyncpg_day.py URL CLIENTS. Prints "ok" when every client has seen what PostgreSQL promises.
"""

import asyncio
import sys
import time

import asyncpg

URL, CLIENTS = sys.argv[1], int(sys.argv[2])
TABLE = "asyncpg_day"


async def raises(error, awaitable):
    try:
        await awaitable
    except error:
        return
    raise AssertionError(f"no {error.__name__}")


async def transactions(conn, client):
    async with conn.transaction():
        await conn.execute(f"insert into {TABLE} values ($1, 1, 'kept')", client)
        try:
            async with conn.transaction():
                await conn.execute(f"insert into {TABLE} values ($1, 2, 'lost')", client)
                await conn.execute("select 1 / 0")
        except asyncpg.DivisionByZeroError:
            pass
    async with conn.transaction(isolation="serializable", readonly=True):
        assert await conn.fetchval("show transaction_isolation") == "serializable"
    rows = await conn.fetch(f"select n from {TABLE} where client = $1 order by n", client)
    assert [row["n"] for row in rows] == [1], rows


async def prepared(conn, client):
    own = await conn.prepare(f"select {client} * 1000 + $1::int, $2::text[]")
    for number in range(40):
        assert tuple(await own.fetchrow(number, ["a", str(number)])) == (client * 1000 + number, ["a", str(number)])
        assert await conn.fetchval("select $1::int + $2::int", client, number) == client + number
    assert own.get_parameters()[0].name == "int4"
    for number in range(150):  # more than its statement cache holds
        assert await conn.fetchval(f"select {number} + $1::int", 1) == number + 1
    await conn.executemany(f"insert into {TABLE} values ($1, $2, 'many')", [(client, 1000 + n) for n in range(100)])


async def copies(conn, client):
    records = [(client, number, "copied") for number in range(10, 210)]
    assert await conn.copy_records_to_table(TABLE, records=records) == "COPY 200"
    await raises(asyncpg.UniqueViolationError, conn.copy_records_to_table(TABLE, records=records[:1]))
    out = bytearray()

    async def sink(data):
        out.extend(data)

    await conn.copy_from_query(f"select n from {TABLE} where client = $1 and t = 'copied' order by n", client, output=sink)
    assert out.split() == [str(number).encode() for number in range(10, 210)]


async def mistakes(conn, client):
    await raises(asyncpg.PostgresSyntaxError, conn.execute("selec 1"))
    await raises(asyncpg.UndefinedTableError, conn.fetch("select * from nowhere"))
    await raises(asyncpg.UniqueViolationError, conn.execute(f"insert into {TABLE} values ($1, 1, 'x')", client))
    await raises(asyncpg.DataError, conn.fetch("select $1::int", "no number"))
    await raises(asyncpg.InvalidTextRepresentationError, conn.fetch("select $1::text::int", "no number"))
    assert await conn.fetchval("select 1") == 1


async def cursors(conn, client):
    async with conn.transaction():
        total = 0
        async for row in conn.cursor("select generate_series(1, $1::int)", 1000, prefetch=77):
            total += row[0]
        assert total == 500500, total


async def cancels(conn, client):
    start = time.monotonic()
    await raises(asyncio.TimeoutError, conn.fetch("select pg_sleep(30)", timeout=0.3))
    assert await conn.fetchval("select 1") == 1
    assert time.monotonic() - start < 25


async def day(client):
    settings = {"application_name": f"asyncpg-{client}"}
    conn = await asyncpg.connect(URL, server_settings=settings, timeout=30)
    assert await conn.fetchval("show application_name") == f"asyncpg-{client}"
    for work in (transactions, prepared, copies, mistakes, cursors):
        await work(conn, client)
    if client % 8 == 0:
        await cancels(conn, client)
    await conn.reset()
    assert await conn.fetchval("show application_name") == f"asyncpg-{client}"
    await conn.close()


async def pool_of_its_own():
    async with asyncpg.create_pool(URL, min_size=2, max_size=8) as pool:

        async def work(number):
            async with pool.acquire() as conn:
                return await conn.fetchval("select $1::int * 2", number)

        assert await asyncio.gather(*(work(number) for number in range(100))) == [number * 2 for number in range(100)]


async def listens():
    listener = await asyncpg.connect(URL)
    heard = asyncio.get_running_loop().create_future()
    await listener.add_listener("asyncpg_news", lambda *event: heard.done() or heard.set_result(event[3]))
    other = await asyncpg.connect(URL)
    await other.execute("notify asyncpg_news, 'hello'")
    assert await asyncio.wait_for(heard, 20) == "hello"
    await listener.close()
    await other.close()


async def main():
    conn = await asyncpg.connect(URL)
    await conn.execute(f"create table {TABLE} (client int, n int, t text, primary key (client, n))")
    await asyncio.gather(*(day(client) for client in range(CLIENTS)))
    await pool_of_its_own()
    await listens()
    count = await conn.fetchval(f"select count(*) from {TABLE}")
    await conn.execute(f"drop table {TABLE}")
    await conn.close()
    assert count == CLIENTS * (1 + 200 + 100), count
    print("ok")


asyncio.run(asyncio.wait_for(main(), 100))

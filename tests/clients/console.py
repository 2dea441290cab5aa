"""The admin console by psycopg and asyncpg, in their own ways: with transactions, prepared, binary, by cursors."""

import asyncio
import sys

import asyncpg
import psycopg

URL = sys.argv[1]
VIEWS = "SHOW POOLS", "SHOW CLIENTS", "SHOW SERVERS", "SHOW STATS", "SHOW LISTS", "SHOW CONFIG"


def by_psycopg():
    with psycopg.connect(URL) as connection:
        for view in VIEWS:
            plain = connection.execute(view)
            names = [column.name for column in plain.description]
            binary = connection.cursor(binary=True).execute(view, prepare=True)
            assert names == [column.name for column in binary.description], view
        lists = dict(connection.execute("SHOW LISTS").fetchall())
        assert lists["databases"] == 1, lists
        assert connection.cursor(binary=True).execute("SHOW LISTS").fetchall() == list(lists.items())
        for error, command in ((psycopg.errors.SyntaxError, "FOO"), (psycopg.errors.InFailedSqlTransaction, VIEWS[0])):
            try:
                connection.execute(command)
                raise AssertionError(command)
            except error:
                pass
        connection.rollback()
    with psycopg.connect(URL, autocommit=True) as connection:
        assert connection.execute("PAUSE").statusmessage == "PAUSE"
        assert connection.execute("RESUME").statusmessage == "RESUME"


async def by_asyncpg():
    connection = await asyncpg.connect(URL)
    for view in VIEWS:
        await connection.fetch(view)
    lists = dict(await connection.fetch("SHOW LISTS"))
    assert lists["databases"] == 1, lists
    assert await connection.execute("PAUSE") == "PAUSE"
    assert await connection.execute("RESUME") == "RESUME"
    async with connection.transaction():
        cursor = await connection.cursor("SHOW LISTS")
        assert len(await cursor.fetch(3)) == 3
        assert len(await cursor.fetch(100)) == len(lists) - 3
    try:
        await connection.fetch("FOO")
        raise AssertionError("FOO")
    except asyncpg.PostgresSyntaxError:
        pass
    await connection.close()


by_psycopg()
asyncio.run(by_asyncpg())

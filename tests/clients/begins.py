"""Clients that begin a transaction and then do something else: all of them at once are more than there are backends."""

import asyncio
import contextlib
import sys

import asyncpg
import psycopg

URL, CLIENTS = sys.argv[1], int(sys.argv[2])


def psycopg_begins():
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(psycopg.connect(URL, autocommit=True)) for _ in range(CLIENTS)]
        transactions = [client.transaction() for client in clients]
        for transaction in transactions:
            transaction.__enter__()
        # Those that do something end before the next one begins to.
        for number, (client, transaction) in enumerate(zip(clients, transactions)):
            if number % 2 == 0:
                assert client.execute("select %s", [number]).fetchone() == (number,)
            transaction.__exit__(None, None, None)
            assert client.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


async def asyncpg_begins():
    clients = [await asyncpg.connect(URL) for _ in range(CLIENTS)]
    transactions = [client.transaction(isolation="repeatable_read", readonly=True) for client in clients]
    for transaction in transactions:
        await transaction.start()
    for number, (client, transaction) in enumerate(zip(clients, transactions)):
        if number % 2 == 0:
            assert await client.fetchval("select $1::int", number) == number
            assert await client.fetchval("show transaction_read_only") == "on"
        await transaction.rollback()
        assert not client.is_in_transaction()
    for client in clients:
        await client.close()


psycopg_begins()
asyncio.run(asyncpg_begins())
print("ok")

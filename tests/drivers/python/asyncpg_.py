"""asyncpg: binary, pipelines with Flush; named statements, or unnamed ones across transactions (STATEMENT_CACHE=0)."""

import asyncio
import io
import os

import asyncpg

from steps import ALL_BYTES, BIG, TABLE, TAGS, TEXT, Raises, Skip, run, same

CACHE = int(os.environ.get("STATEMENT_CACHE", "100"))


def opened():
    return asyncpg.connect(statement_cache_size=CACHE)


async def connect(c):
    same(await c.fetchval("SELECT 1"), 1)
    same(c.get_server_version().major >= 14, True)
    await c.execute(f"TRUNCATE {TABLE}")


async def crud(c):
    same(await c.execute(f"INSERT INTO {TABLE}(id, name) VALUES ($1, $2), (2, 'b')", 1, "a"), "INSERT 0 2")
    await c.execute(f"UPDATE {TABLE} SET name = $1 WHERE id = $2", "c", 1)
    same(await c.fetchval(f"SELECT name FROM {TABLE} WHERE id = $1", 1), "c")
    same(await c.execute(f"DELETE FROM {TABLE}"), "DELETE 2")


async def transaction(c):
    async with c.transaction():
        await c.execute(f"INSERT INTO {TABLE}(id) VALUES ($1)", 10)
        await c.execute(f"INSERT INTO {TABLE}(id) VALUES ($1)", 11)
    same(await c.fetchval(f"SELECT count(*) FROM {TABLE} WHERE id IN (10, 11)"), 2)


async def rollback(c):
    outer = c.transaction()
    await outer.start()
    await c.execute(f"INSERT INTO {TABLE}(id) VALUES (20)")
    inner = c.transaction()
    await inner.start()
    await c.execute(f"INSERT INTO {TABLE}(id) VALUES (21)")
    await inner.rollback()
    same(await c.fetchval(f"SELECT count(*) FROM {TABLE} WHERE id IN (20, 21)"), 1)
    await outer.rollback()
    same(await c.fetchval(f"SELECT count(*) FROM {TABLE} WHERE id IN (20, 21)"), 0)


async def prepared(c):
    plus, upper = await c.prepare("SELECT $1::int + 1"), await c.prepare("SELECT upper($1::text)")
    for n in range(30):
        same(await plus.fetchval(n), n + 1)
        same(await upper.fetchval(f"n{n}"), f"N{n}")
        same(await c.fetchval("SELECT $1::int * 2", n), n * 2)


async def reprepared(c):
    for n in range(30):  # each on its own: the driver closes what is no longer used
        same(await (await c.prepare(f"SELECT $1::int - {n}")).fetchval(n), 0)
    if CACHE:
        await c.reload_schema_state()
        await c.execute("DEALLOCATE ALL")
        c._drop_local_statement_cache()


async def batch(c):
    await c.executemany(f"INSERT INTO {TABLE}(id) VALUES ($1)", [(n,) for n in range(100, 150)])
    same(await c.fetchval(f"SELECT count(*) FROM {TABLE} WHERE id BETWEEN 100 AND 149"), 50)
    with Raises("22012"):
        await c.executemany("SELECT 1 / $1::int", [(1,), (0,), (2,)])
    with Raises("22012"):
        await c.execute("SELECT 1; SELECT 1 / 0; SELECT 2")


async def copy(c):
    await c.copy_records_to_table(TABLE, records=[(n, f"row {n}") for n in range(1000, 2000)], columns=["id", "name"])
    found = io.BytesIO()
    await c.copy_from_query(f"SELECT id FROM {TABLE} WHERE id >= $1 ORDER BY id", 1000, output=found)
    same(found.getvalue().split(), [b"%d" % n for n in range(1000, 2000)])
    with Raises("22P02"):
        await c.copy_to_table(TABLE, source=io.BytesIO(b"not a number\n"), columns=["id"])
    same(await c.fetchval("SELECT 1"), 1)


async def cursor(c):
    async with c.transaction():
        same(sum([row[0] async for row in c.cursor("SELECT generate_series(1, $1::int)", 500, prefetch=100)]), 125250)


async def cancel(c):
    try:
        await c.fetchval("SELECT pg_sleep(20)", timeout=0.2)  # the driver sends a cancel request
        raise AssertionError("not cancelled")
    except asyncio.TimeoutError:
        same(await c.fetchval("SELECT 1"), 1)


async def timeout(c):
    with Raises("57014"):
        async with c.transaction():
            await c.execute("SET LOCAL statement_timeout = '100ms'")
            await c.execute("SELECT pg_sleep(20)")
    same(await c.fetchval("SELECT 1"), 1)


async def error(c):
    with Raises("22012"):
        await c.fetchval("SELECT 1 / $1::int", 0)
    with Raises("25P02"):
        async with c.transaction():
            with Raises("42703"):
                await c.execute("SELECT nothing")
            await c.execute("SELECT 1")
    same(await c.fetchval("SELECT 10 / $1::int", 2), 5)


async def null(c):
    await c.execute(f"INSERT INTO {TABLE}(id, name) VALUES ($1, $2)", 30, None)
    same(await c.fetchval(f"SELECT name FROM {TABLE} WHERE id = 30"), None)


async def binary(c):
    await c.execute(f"INSERT INTO {TABLE}(id, data) VALUES ($1, $2)", 40, ALL_BYTES)
    same(await c.fetchval(f"SELECT data FROM {TABLE} WHERE id = 40"), ALL_BYTES)


async def array(c):
    await c.execute(f"INSERT INTO {TABLE}(id, tags) VALUES ($1, $2)", 50, TAGS)
    same(await c.fetchval(f"SELECT tags FROM {TABLE} WHERE id = 50"), TAGS)
    same(await c.fetchval("SELECT $1::int[]", [1, None, 3]), [1, None, 3])


async def unicode(c):
    same(await c.fetchval("SELECT $1::text", TEXT), TEXT)
    same(await c.fetchval("SELECT length($1::text)", TEXT), len(TEXT))


async def latin1(c):
    raise Skip("the driver speaks UTF-8 only")


async def large(c):
    await c.execute(f"INSERT INTO {TABLE}(id, name) VALUES (60, $1)", "x" * BIG)
    same(len(await c.fetchval(f"SELECT name FROM {TABLE} WHERE id = 60")), BIG)
    same(len(await c.fetch("SELECT n, repeat('y', 100) FROM generate_series(1, 20000) n")), 20000)


async def settings(c):
    await c.execute("SET TIME ZONE 'Asia/Tokyo'")
    for _ in range(20):
        same(await c.fetchval("SELECT current_setting('TimeZone')"), "Asia/Tokyo")
    await c.execute("RESET TIME ZONE")


async def reconnect(c):
    async with asyncpg.create_pool(min_size=1, max_size=2, statement_cache_size=CACHE) as pool:
        for n in range(5):  # a pool resets each connection that comes back
            same(await pool.fetchval("SELECT $1::int", n), n)
    with Raises():
        await c.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    other = await opened()
    same(await other.fetchval("SELECT $1::int", 7), 7)
    await other.close()


loop = asyncio.new_event_loop()
print("version", asyncpg.__version__)
run(
    dict(connect=connect, crud=crud, transaction=transaction, rollback=rollback, prepared=prepared, reprepared=reprepared,
         batch=batch, copy=copy, cursor=cursor, cancel=cancel, timeout=timeout, error=error, null=null, binary=binary,
         array=array, unicode=unicode, latin1=latin1, large=large, settings=settings, reconnect=reconnect),
    opened, lambda c: c.close(timeout=5), lambda step, *arguments: loop.run_until_complete(step(*arguments)),
)

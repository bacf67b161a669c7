"""asyncpg with its statement cache: named statements that are described once, then relied upon."""

import asyncio

import asyncpg

from heal import BLOCK, GRACE, STATEMENTS, Figures, changed, check, deadline, key_of

figures = Figures()


async def lives(number):
    c = await asyncpg.connect()
    turn = number
    while not deadline.over():
        turn += 1
        key = key_of(turn)
        sql = STATEMENTS[turn % len(STATEMENTS)]
        with figures.statement(sql):
            check(await c.fetch(sql, key), key)
    await c.close()


async def in_blocks():
    c = await asyncpg.connect()
    while not deadline.over():
        try:
            async with c.transaction():
                for n, sql in enumerate(BLOCK):
                    check(await c.fetch(sql, n + 1), n + 1)
            figures.blocks += 1
        except asyncpg.InvalidCachedStatementError as error:
            figures.block_failed(changed(str(error)), error)
        except Exception as error:
            figures.block_failed(False, error)
    await c.close()


async def main():
    everybody = [asyncio.create_task(lives(n)) for n in range(16)] + [asyncio.create_task(in_blocks())]
    await asyncio.to_thread(deadline.wait)
    done, stuck = await asyncio.wait(everybody, timeout=GRACE)
    for task in done:
        if task.exception():
            figures.errors += 1
            figures.show(f"a client ended: {task.exception()!r}")
    figures.print(f"asyncpg {asyncpg.__version__}", bool(stuck))


asyncio.run(main())

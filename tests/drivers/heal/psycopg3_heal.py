"""psycopg 3 with prepare_threshold=0: a named statement from the first use, its portal described each time."""

import threading
import time

import psycopg
from psycopg.rows import dict_row

from heal import BLOCK, GRACE, STATEMENTS, Figures, changed, check, deadline, key_of

figures = Figures()


def lives(number):
    with psycopg.connect("", autocommit=True, prepare_threshold=0, row_factory=dict_row) as c:
        turn = number
        while not deadline.over():
            turn += 1
            key = key_of(turn)
            sql = STATEMENTS[turn % len(STATEMENTS)].replace("$1", "%s")
            with figures.statement(sql):
                check(c.execute(sql, (key,), prepare=True).fetchall(), key)


def in_blocks():
    with psycopg.connect("", autocommit=True, prepare_threshold=0, row_factory=dict_row) as c:
        while not deadline.over():
            try:
                with c.transaction():
                    for n, sql in enumerate(BLOCK):
                        check(c.execute(sql.replace("$1", "%s"), (n + 1,), prepare=True).fetchall(), n + 1)
                figures.blocks += 1
            except psycopg.errors.FeatureNotSupported as error:
                figures.block_failed(changed(str(error)), error)
                # As an application has to, here as on a direct connection.
                c.execute("DEALLOCATE ALL")
                c._prepared.clear()
            except psycopg.Error as error:
                figures.block_failed(False, error)


threads = [threading.Thread(target=lives, args=(n,), daemon=True) for n in range(16)] + [threading.Thread(target=in_blocks, daemon=True)]
for thread in threads:
    thread.start()
deadline.wait()
gives_up = time.monotonic() + GRACE
for thread in threads:
    thread.join(max(0, gives_up - time.monotonic()))
figures.print(f"psycopg {psycopg.__version__}", any(thread.is_alive() for thread in threads))

"""psycopg2: simple protocol only; prepared statements by SQL."""

import io
import threading

import psycopg2
from psycopg2 import extensions, extras

from steps import ALL_BYTES, BIG, TABLE, TAGS, TEXT, Raises, run, same


def opened(**options):
    c = psycopg2.connect("", **options)
    c.autocommit = True
    return c


def execute(c, sql, *values):
    cursor = c.cursor()
    cursor.execute(sql, values)
    return cursor


def one(c, sql, *values):
    return execute(c, sql, *values).fetchone()[0]


def connect(c):
    same(one(c, "SELECT 1"), 1)
    same(c.server_version >= 140000, True)
    execute(c, f"TRUNCATE {TABLE}")


def crud(c):
    same(execute(c, f"INSERT INTO {TABLE}(id, name) VALUES (%s, %s), (2, 'b')", 1, "a").rowcount, 2)
    execute(c, f"UPDATE {TABLE} SET name = %s WHERE id = %s", "c", 1)
    same(one(c, f"SELECT name FROM {TABLE} WHERE id = %s", 1), "c")
    same(execute(c, f"DELETE FROM {TABLE}").rowcount, 2)


def transaction(c):
    c.autocommit = False
    with c:
        execute(c, f"INSERT INTO {TABLE}(id) VALUES (%s)", 10)
        execute(c, f"INSERT INTO {TABLE}(id) VALUES (%s)", 11)
    c.autocommit = True
    same(one(c, f"SELECT count(*) FROM {TABLE} WHERE id IN (10, 11)"), 2)


def rollback(c):
    c.autocommit = False
    execute(c, f"INSERT INTO {TABLE}(id) VALUES (20)")
    execute(c, f"SAVEPOINT a; INSERT INTO {TABLE}(id) VALUES (21); ROLLBACK TO a")
    same(one(c, f"SELECT count(*) FROM {TABLE} WHERE id IN (20, 21)"), 1)
    c.rollback()
    c.autocommit = True
    same(one(c, f"SELECT count(*) FROM {TABLE} WHERE id IN (20, 21)"), 0)


def prepared(c):
    execute(c, "PREPARE plus(int) AS SELECT $1 + 1")
    execute(c, "PREPARE upper_of(text) AS SELECT upper($1)")
    for n in range(30):
        same(one(c, "EXECUTE plus(%s)", n), n + 1)
        same(one(c, "EXECUTE upper_of(%s)", f"n{n}"), f"N{n}")
    execute(c, "DEALLOCATE plus")
    execute(c, "DEALLOCATE ALL")


def reprepared(c):
    for n in range(10):
        execute(c, f"PREPARE again(int) AS SELECT $1 + {n}")
        with Raises("42P05"):
            execute(c, "PREPARE again(int) AS SELECT $1 + 100")
        same(one(c, "EXECUTE again(%s)", n), n + n)
        execute(c, "DEALLOCATE again")
    with Raises("26000"):
        execute(c, "EXECUTE again(1)")


def batch(c):
    extras.execute_values(c.cursor(), f"INSERT INTO {TABLE}(id) VALUES %s", [(n,) for n in range(100, 150)], page_size=20)
    same(one(c, f"SELECT count(*) FROM {TABLE} WHERE id BETWEEN 100 AND 149"), 50)
    same(one(c, "; ".join(f"SELECT {n}" for n in range(50))), 49)
    with Raises("22012"):
        execute(c, "SELECT 1; SELECT 1 / 0; SELECT 2")


def copy(c):
    with c.cursor() as cursor:
        rows = io.StringIO("".join(f"{n}\trow {n}\n" for n in range(1000, 2000)))
        cursor.copy_expert(f"COPY {TABLE}(id, name) FROM STDIN", rows)
        found = io.StringIO()
        cursor.copy_expert(f"COPY (SELECT id FROM {TABLE} WHERE id >= 1000 ORDER BY id) TO STDOUT", found)
        same(found.getvalue().split(), [str(n) for n in range(1000, 2000)])
        with Raises("22P02"):
            cursor.copy_expert(f"COPY {TABLE}(id) FROM STDIN", io.StringIO("not a number\n"))
    same(one(c, "SELECT 1"), 1)


def cursor(c):
    c.autocommit = False
    with c, c.cursor("portal") as cursor:
        cursor.itersize = 100
        cursor.execute("SELECT generate_series(1, %s)", (500,))
        same(sum(row[0] for row in cursor), 125250)
    c.autocommit = True


def cancel(c):
    timer = threading.Timer(0.2, c.cancel)
    timer.start()
    with Raises("57014"):
        execute(c, "SELECT pg_sleep(20)")
    timer.join()
    same(one(c, "SELECT 1"), 1)


def timeout(c):
    with Raises("57014"):
        execute(c, "BEGIN; SET LOCAL statement_timeout = '100ms'; SELECT pg_sleep(20)")
    execute(c, "ROLLBACK")
    same(one(c, "SELECT 1"), 1)


def error(c):
    with Raises("22012"):
        execute(c, "SELECT 1 / %s", 0)
    execute(c, "BEGIN")
    with Raises("42703"):
        execute(c, "SELECT nothing")
    same(c.info.transaction_status, extensions.TRANSACTION_STATUS_INERROR)
    with Raises("25P02"):
        execute(c, "SELECT 1")
    execute(c, "ROLLBACK")
    same(one(c, "SELECT 10 / %s", 2), 5)


def null(c):
    execute(c, f"INSERT INTO {TABLE}(id, name) VALUES (%s, %s)", 30, None)
    same(one(c, f"SELECT name FROM {TABLE} WHERE id = 30"), None)


def binary(c):
    execute(c, f"INSERT INTO {TABLE}(id, data) VALUES (%s, %s)", 40, psycopg2.Binary(ALL_BYTES))
    same(bytes(one(c, f"SELECT data FROM {TABLE} WHERE id = 40")), ALL_BYTES)


def array(c):
    execute(c, f"INSERT INTO {TABLE}(id, tags) VALUES (%s, %s)", 50, TAGS)
    same(one(c, f"SELECT tags FROM {TABLE} WHERE id = 50"), TAGS)
    same(one(c, "SELECT %s::int[]", [1, None, 3]), [1, None, 3])


def unicode(c):
    same(one(c, "SELECT %s::text", TEXT), TEXT)
    same(one(c, "SELECT length(%s::text)", TEXT), len(TEXT))


def latin1(c):
    with_option = opened(client_encoding="LATIN1")
    c.set_client_encoding("LATIN1")
    for other in (with_option, c):
        for _ in range(10):
            same(bytes(one(other, "SELECT convert_to(%s, 'UTF8')", "é")), b"\xc3\xa9")
            same(one(other, "SELECT 'é' || chr(233)"), "éé")
    c.set_client_encoding("UTF8")
    same(one(c, "SELECT chr(233)"), "é")
    with_option.close()


def large(c):
    execute(c, f"INSERT INTO {TABLE}(id, name) VALUES (60, %s)", "x" * BIG)
    same(len(one(c, f"SELECT name FROM {TABLE} WHERE id = 60")), BIG)
    same(len(execute(c, "SELECT n, repeat('y', 100) FROM generate_series(1, 20000) n").fetchall()), 20000)


def settings(c):
    execute(c, "SET TIME ZONE 'Asia/Tokyo'")
    for _ in range(20):
        same(one(c, "SELECT current_setting('TimeZone')"), "Asia/Tokyo")
    execute(c, "RESET TIME ZONE")


def reconnect(c):
    for n in range(5):
        other = opened()
        same(one(other, "SELECT %s", n), n)
        other.close()
    with Raises():
        execute(c, "SELECT pg_terminate_backend(pg_backend_pid())")
    other = opened()
    same(one(other, "SELECT %s", 7), 7)
    other.close()
    c.close()


print("version", psycopg2.__version__.split()[0], "libpq", psycopg2.extensions.libpq_version())
run(
    dict(connect=connect, crud=crud, transaction=transaction, rollback=rollback, prepared=prepared, reprepared=reprepared,
         batch=batch, copy=copy, cursor=cursor, cancel=cancel, timeout=timeout, error=error, null=null, binary=binary,
         array=array, unicode=unicode, latin1=latin1, large=large, settings=settings, reconnect=reconnect),
    opened, lambda c: c.close(),
)

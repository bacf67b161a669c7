"""psycopg 3: server-side prepared statements from the first use, pipeline mode, COPY, libpq of its own."""

import threading

import psycopg
from psycopg import errors, pq

from steps import ALL_BYTES, BIG, TABLE, TAGS, TEXT, Raises, run, same


def opened(**options):
    # Host, port, user, password and database are in the environment.
    return psycopg.connect(autocommit=True, prepare_threshold=0, **options)


def one(c, sql, *values):
    return c.execute(sql, values).fetchone()[0]


def connect(c):
    same(one(c, "SELECT 1"), 1)
    same(c.info.server_version >= 140000, True)
    c.execute(f"TRUNCATE {TABLE}")


def crud(c):
    same(c.execute(f"INSERT INTO {TABLE}(id, name) VALUES (%s, %s), (2, 'b')", (1, "a")).rowcount, 2)
    c.execute(f"UPDATE {TABLE} SET name = %s WHERE id = %s", ("c", 1))
    same(one(c, f"SELECT name FROM {TABLE} WHERE id = %s", 1), "c")
    same(c.execute(f"DELETE FROM {TABLE}").rowcount, 2)


def transaction(c):
    with c.transaction():
        c.execute(f"INSERT INTO {TABLE}(id) VALUES (%s)", (10,))
        c.execute(f"INSERT INTO {TABLE}(id) VALUES (%s)", (11,))
    same(one(c, f"SELECT count(*) FROM {TABLE} WHERE id IN (10, 11)"), 2)


def rollback(c):
    with c.transaction(force_rollback=True):
        c.execute(f"INSERT INTO {TABLE}(id) VALUES (20)")
        with c.transaction(force_rollback=True):
            c.execute(f"INSERT INTO {TABLE}(id) VALUES (21)")
        same(one(c, f"SELECT count(*) FROM {TABLE} WHERE id IN (20, 21)"), 1)
    same(one(c, f"SELECT count(*) FROM {TABLE} WHERE id IN (20, 21)"), 0)


def prepared(c):
    for n in range(30):
        same(one(c, "SELECT %s::int + 1", n), n + 1)
        same(one(c, "SELECT upper(%s::text)", f"n{n}"), f"N{n}")
        same(one(c, "SELECT %s::int * 2, 'other'", n), n * 2)


def reprepared(c):
    c.prepared_max = 2  # older statements are deallocated by their names
    for n in range(30):
        same(one(c, f"SELECT %s::int + {n % 5}", n), n + n % 5)
    c.execute("DEALLOCATE ALL")
    c.prepared_max = 100
    same(one(c, "SELECT %s::int + 1", 1), 2)


def batch(c):
    with c.pipeline():
        found = [c.execute("SELECT %s::int", (n,)) for n in range(50)]
    same([cursor.fetchone()[0] for cursor in found], list(range(50)))
    with Raises("22012"), c.pipeline() as pipeline:
        c.execute("SELECT 1")
        c.execute("SELECT 1 / %s::int", (0,))
        c.execute("SELECT 2")
        pipeline.sync()
    with c.cursor() as cursor:
        cursor.executemany(f"INSERT INTO {TABLE}(id) VALUES (%s)", [(n,) for n in range(100, 150)])
        same(cursor.rowcount, 50)


def copy(c):
    with c.cursor() as cursor:
        with cursor.copy(f"COPY {TABLE}(id, name) FROM STDIN") as rows:
            for n in range(1000, 2000):
                rows.write_row((n, f"row {n}"))
        with cursor.copy(f"COPY (SELECT id FROM {TABLE} WHERE id >= 1000) TO STDOUT (FORMAT BINARY)") as rows:
            rows.set_types(["int4"])
            same(sorted(row[0] for row in rows.rows()), list(range(1000, 2000)))
        with Raises("22P02"), cursor.copy(f"COPY {TABLE}(id) FROM STDIN") as rows:
            rows.write("not a number\n")
    same(one(c, "SELECT 1"), 1)


def cursor(c):
    with c.transaction(), c.cursor("portal") as cursor:
        cursor.itersize = 100
        cursor.execute("SELECT generate_series(1, %s)", (500,))
        same(sum(row[0] for row in cursor), 125250)


def cancel(c):
    timer = threading.Timer(0.2, c.cancel_safe)
    timer.start()
    with Raises("57014"):
        c.execute("SELECT pg_sleep(20)")
    timer.join()
    same(one(c, "SELECT 1"), 1)


def timeout(c):
    with Raises("57014"), c.transaction():
        c.execute("SET LOCAL statement_timeout = '100ms'")
        c.execute("SELECT pg_sleep(20)")
    same(one(c, "SELECT 1"), 1)


def error(c):
    with Raises("22012"):
        c.execute("SELECT 1 / %s::int", (0,))
    with Raises("25P02"), c.transaction():
        try:
            c.execute("SELECT nothing")
        except errors.UndefinedColumn:
            c.execute("SELECT 1")
    same(one(c, "SELECT 10 / %s::int", 2), 5)


def null(c):
    c.execute(f"INSERT INTO {TABLE}(id, name) VALUES (%s, %s)", (30, None))
    same(one(c, f"SELECT name FROM {TABLE} WHERE id = 30"), None)


def binary(c):
    c.execute(f"INSERT INTO {TABLE}(id, data) VALUES (%s, %b)", (40, ALL_BYTES))
    same(c.cursor(binary=True).execute(f"SELECT data FROM {TABLE} WHERE id = 40").fetchone()[0], ALL_BYTES)


def array(c):
    c.execute(f"INSERT INTO {TABLE}(id, tags) VALUES (%s, %s)", (50, TAGS))
    same(one(c, f"SELECT tags FROM {TABLE} WHERE id = 50"), TAGS)
    same(one(c, "SELECT %s::int[]", [1, None, 3]), [1, None, 3])


def unicode(c):
    same(one(c, "SELECT %s::text", TEXT), TEXT)
    same(one(c, "SELECT length(%s::text)", TEXT), len(TEXT))


def latin1(_):
    with opened(client_encoding="LATIN1") as c:
        for _ in range(10):
            same(one(c, "SELECT convert_to(%s::text, 'UTF8')", "é"), b"\xc3\xa9")
            same(one(c, "SELECT 'é' || chr(233)"), "éé")


def large(c):
    c.execute(f"INSERT INTO {TABLE}(id, name) VALUES (60, %s)", ("x" * BIG,))
    same(len(one(c, f"SELECT name FROM {TABLE} WHERE id = 60")), BIG)
    same(len(c.execute("SELECT n, repeat('y', 100) FROM generate_series(1, 20000) n").fetchall()), 20000)


def settings(c):
    c.execute("SET TIME ZONE 'Asia/Tokyo'")
    for _ in range(20):
        same(one(c, "SELECT current_setting('TimeZone')"), "Asia/Tokyo")
    c.execute("RESET TIME ZONE")


def reconnect(c):
    for n in range(5):
        with opened() as other:
            same(one(other, "SELECT %s::int", n), n)
    with Raises():
        c.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    with opened() as other:
        same(one(other, "SELECT %s::int", 7), 7)
    c.close()


print("version", psycopg.__version__, "libpq", pq.version_pretty(pq.version()))
run(
    dict(connect=connect, crud=crud, transaction=transaction, rollback=rollback, prepared=prepared, reprepared=reprepared,
         batch=batch, copy=copy, cursor=cursor, cancel=cancel, timeout=timeout, error=error, null=null, binary=binary,
         array=array, unicode=unicode, latin1=latin1, large=large, settings=settings, reconnect=reconnect),
    opened, lambda c: c.close(),
)

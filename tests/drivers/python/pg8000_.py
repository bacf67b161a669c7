"""pg8000 (native API): pure Python; unnamed and named statements."""

import io

import pg8000
import pg8000.native

from steps import ALL_BYTES, BIG, DATABASE, HOST, PASSWORD, PORT, TABLE, TAGS, TEXT, USER, Raises, Skip, run, same


def opened():
    return pg8000.native.Connection(USER, host=HOST, port=PORT, password=PASSWORD, database=DATABASE)


def one(c, sql, **values):
    return c.run(sql, **values)[0][0]


def connect(c):
    same(one(c, "SELECT 1"), 1)
    c.run(f"TRUNCATE {TABLE}")


def crud(c):
    c.run(f"INSERT INTO {TABLE}(id, name) VALUES (:id, :name), (2, 'b')", id=1, name="a")
    same(c.row_count, 2)
    c.run(f"UPDATE {TABLE} SET name = :name WHERE id = :id", name="c", id=1)
    same(one(c, f"SELECT name FROM {TABLE} WHERE id = :id", id=1), "c")
    c.run(f"DELETE FROM {TABLE}")
    same(c.row_count, 2)


def transaction(c):
    c.run("START TRANSACTION")
    c.run(f"INSERT INTO {TABLE}(id) VALUES (:id)", id=10)
    c.run(f"INSERT INTO {TABLE}(id) VALUES (:id)", id=11)
    c.run("COMMIT")
    same(one(c, f"SELECT count(*) FROM {TABLE} WHERE id IN (10, 11)"), 2)


def rollback(c):
    c.run("START TRANSACTION")
    c.run(f"INSERT INTO {TABLE}(id) VALUES (20)")
    c.run("SAVEPOINT inner_one")
    c.run(f"INSERT INTO {TABLE}(id) VALUES (21)")
    c.run("ROLLBACK TO inner_one")
    same(one(c, f"SELECT count(*) FROM {TABLE} WHERE id IN (20, 21)"), 1)
    c.run("ROLLBACK")
    same(one(c, f"SELECT count(*) FROM {TABLE} WHERE id IN (20, 21)"), 0)


def prepared(c):
    plus, upper = c.prepare("SELECT cast(:n AS int) + 1"), c.prepare("SELECT upper(cast(:s AS text))")
    for n in range(30):
        same(plus.run(n=n), [[n + 1]])
        same(upper.run(s=f"n{n}"), [[f"N{n}"]])
    plus.close()
    upper.close()


def reprepared(c):
    for n in range(10):
        again = c.prepare(f"SELECT cast(:n AS int) + {n}")
        same(again.run(n=n), [[n + n]])
        again.close()


def batch(c):
    c.run("; ".join(f"INSERT INTO {TABLE}(id) VALUES ({n})" for n in range(100, 150)))
    same(one(c, f"SELECT count(*) FROM {TABLE} WHERE id BETWEEN 100 AND 149"), 50)
    with Raises("22012"):
        c.run("SELECT 1; SELECT 1 / 0; SELECT 2")


def copy(c):
    rows = io.StringIO("".join(f"{n}\trow {n}\n" for n in range(1000, 2000)))
    c.run(f"COPY {TABLE}(id, name) FROM STDIN", stream=rows)
    found = io.BytesIO()
    c.run(f"COPY (SELECT id FROM {TABLE} WHERE id >= 1000 ORDER BY id) TO STDOUT", stream=found)
    same(found.getvalue().split(), [b"%d" % n for n in range(1000, 2000)])
    with Raises("22P02"):
        c.run(f"COPY {TABLE}(id) FROM STDIN", stream=io.StringIO("not a number\n"))
    same(one(c, "SELECT 1"), 1)


def cursor(c):
    c.run("START TRANSACTION")
    c.run("DECLARE portal CURSOR FOR SELECT generate_series(1, 500)")
    same(sum(row[0] for _ in range(5) for row in c.run("FETCH 100 FROM portal")), 125250)
    c.run("COMMIT")


def cancel(c):
    raise Skip("the driver cannot cancel")


def timeout(c):
    c.run("START TRANSACTION")
    c.run("SET LOCAL statement_timeout = '100ms'")
    with Raises("57014"):
        c.run("SELECT pg_sleep(20)")
    c.run("ROLLBACK")
    same(one(c, "SELECT 1"), 1)


def error(c):
    with Raises("22012"):
        c.run("SELECT 1 / cast(:n AS int)", n=0)
    c.run("START TRANSACTION")
    with Raises("42703"):
        c.run("SELECT nothing")
    with Raises("25P02"):
        c.run("SELECT 1")
    c.run("ROLLBACK")
    same(one(c, "SELECT 10 / cast(:n AS int)", n=2), 5)


def null(c):
    c.run(f"INSERT INTO {TABLE}(id, name) VALUES (:id, :name)", id=30, name=None)
    same(one(c, f"SELECT name FROM {TABLE} WHERE id = 30"), None)


def binary(c):
    c.run(f"INSERT INTO {TABLE}(id, data) VALUES (:id, :data)", id=40, data=ALL_BYTES)
    same(one(c, f"SELECT data FROM {TABLE} WHERE id = 40"), ALL_BYTES)


def array(c):
    c.run(f"INSERT INTO {TABLE}(id, tags) VALUES (:id, :tags)", id=50, tags=TAGS)
    same(one(c, f"SELECT tags FROM {TABLE} WHERE id = 50"), TAGS)
    same(one(c, "SELECT cast(:n AS int[])", n=[1, None, 3]), [1, None, 3])


def unicode(c):
    same(one(c, "SELECT cast(:s AS text)", s=TEXT), TEXT)
    same(one(c, "SELECT length(cast(:s AS text))", s=TEXT), len(TEXT))


def latin1(c):
    c.run("SET client_encoding = 'LATIN1'")  # the driver follows what the server reports
    for _ in range(10):
        same(one(c, "SELECT convert_to(cast(:s AS text), 'UTF8')", s="é"), b"\xc3\xa9")
        same(one(c, "SELECT 'é' || chr(233)"), "éé")
    c.run("SET client_encoding = 'UTF8'")


def large(c):
    c.run(f"INSERT INTO {TABLE}(id, name) VALUES (60, :name)", name="x" * BIG)
    same(len(one(c, f"SELECT name FROM {TABLE} WHERE id = 60")), BIG)
    same(len(c.run("SELECT n, repeat('y', 100) FROM generate_series(1, 20000) n")), 20000)


def settings(c):
    c.run("SET TIME ZONE 'Asia/Tokyo'")
    for _ in range(20):
        same(one(c, "SELECT current_setting('TimeZone')"), "Asia/Tokyo")
    c.run("RESET TIME ZONE")


def reconnect(c):
    for n in range(5):
        other = opened()
        same(one(other, "SELECT cast(:n AS int)", n=n), n)
        other.close()
    with Raises():
        c.run("SELECT pg_terminate_backend(pg_backend_pid())")
    other = opened()
    same(one(other, "SELECT cast(:n AS int)", n=7), 7)
    other.close()


print("version", pg8000.__version__)
run(
    dict(connect=connect, crud=crud, transaction=transaction, rollback=rollback, prepared=prepared, reprepared=reprepared,
         batch=batch, copy=copy, cursor=cursor, cancel=cancel, timeout=timeout, error=error, null=null, binary=binary,
         array=array, unicode=unicode, latin1=latin1, large=large, settings=settings, reconnect=reconnect),
    opened, lambda c: c.close(),
)

"""SQLAlchemy: the ORM over psycopg 3, asyncpg and psycopg2, with its connection pools (ping before use, reset on return)."""

import asyncio
import os

import sqlalchemy
from sqlalchemy import ARRAY, LargeBinary, Text, create_engine, delete, func, insert, select, text, update
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from steps import ALL_BYTES, BIG, DATABASE, HOST, PASSWORD, PORT, TABLE, TAGS, TEXT, USER, Raises, Skip, run, same

URL = f"://{USER}:{PASSWORD}@{HOST}:{PORT}/{DATABASE}"
DIALECT = os.environ.get("DIALECT", "psycopg")


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = TABLE
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None] = mapped_column(Text)
    data: Mapped[bytes | None] = mapped_column(LargeBinary)
    tags: Mapped[list[str | None] | None] = mapped_column(ARRAY(Text))


def opened():
    return create_engine(f"postgresql+{DIALECT}{URL}", pool_size=2, pool_pre_ping=True)


def count(s, first, last):
    return s.scalar(select(func.count()).select_from(Item).where(Item.id.between(first, last)))


def connect(e):
    with e.connect() as c:
        same(c.scalar(text("SELECT 1")), 1)
        same(e.dialect.server_version_info[0] >= 14, True)
        c.execute(delete(Item))
        c.commit()


def crud(e):
    with Session(e) as s:
        s.add_all([Item(id=1, name="a"), Item(id=2, name="b")])
        s.commit()
        s.execute(update(Item).where(Item.id == 1).values(name="c"))
        s.commit()
        same(s.get(Item, 1).name, "c")
        same(s.execute(delete(Item)).rowcount, 2)
        s.commit()


def transaction(e):
    with Session(e) as s, s.begin():
        s.add(Item(id=10))
        s.flush()
        s.add(Item(id=11))
    with Session(e) as s:
        same(count(s, 10, 11), 2)


def rollback(e):
    with Session(e) as s:
        s.execute(insert(Item).values(id=20))
        inner = s.begin_nested()
        s.execute(insert(Item).values(id=21))
        inner.rollback()
        same(count(s, 20, 21), 1)
        s.rollback()
        same(count(s, 20, 21), 0)


def prepared(e):
    for n in range(30):
        with e.connect() as c:  # each use is a check-out of the pool: ping, work, ROLLBACK
            same(c.scalar(select(func.upper(f"n{n}"))), f"N{n}")
            same(c.scalar(text("SELECT CAST(:n AS int) + 1"), {"n": n}), n + 1)


def reprepared(_):
    async def work():
        engine = create_async_engine(f"postgresql+asyncpg{URL}?prepared_statement_cache_size=3")
        for n in range(30):
            async with engine.connect() as c:
                same(await c.scalar(text(f"SELECT CAST(:n AS int) + {n % 5}"), {"n": n}), n + n % 5)
        await engine.dispose()

    asyncio.run(work())


def batch(e):
    with Session(e) as s:
        s.execute(insert(Item), [{"id": n} for n in range(100, 150)])
        s.commit()
        same(count(s, 100, 149), 50)
        found = s.scalars(insert(Item).returning(Item.id), [{"id": n} for n in range(150, 200)])
        same(sorted(found), list(range(150, 200)))
        s.commit()


def copy(_):
    raise Skip("not in SQLAlchemy")


def cursor(e):
    with e.connect().execution_options(stream_results=True, max_row_buffer=100) as c:
        same(sum(row[0] for row in c.execute(select(func.generate_series(1, 500)))), 125250)


def cancel(_):
    raise Skip("not in SQLAlchemy")


def timeout(e):
    with e.connect() as c, Raises("57014"):
        c.execute(text("SET LOCAL statement_timeout = '100ms'"))
        c.execute(text("SELECT pg_sleep(20)"))
    with e.connect() as c:
        same(c.scalar(text("SELECT 1")), 1)


def error(e):
    with Session(e) as s:
        with Raises("22012"):
            s.execute(text("SELECT 1 / CAST(:n AS int)"), {"n": 0})
        with Raises("25P02"):
            s.execute(text("SELECT 1"))
        s.rollback()
        same(s.scalar(text("SELECT 10 / CAST(:n AS int)"), {"n": 2}), 5)


def null(e):
    with Session(e) as s:
        s.add(Item(id=30, name=None))
        s.commit()
        same(s.get(Item, 30).name, None)


def binary(e):
    with Session(e) as s:
        s.add(Item(id=40, data=ALL_BYTES))
        s.commit()
        same(s.get(Item, 40).data, ALL_BYTES)


def array(e):
    with Session(e) as s:
        s.add(Item(id=50, tags=TAGS))
        s.commit()
        same(s.get(Item, 50).tags, TAGS)


def unicode(e):
    with e.connect() as c:
        same(c.scalar(text("SELECT CAST(:s AS text)"), {"s": TEXT}), TEXT)
        same(c.scalar(text("SELECT length(CAST(:s AS text))"), {"s": TEXT}), len(TEXT))


def latin1(_):
    engine = create_engine(f"postgresql+psycopg2{URL}", client_encoding="latin1")
    for _ in range(10):
        with engine.connect() as c:
            same(bytes(c.scalar(text("SELECT convert_to(:s, 'UTF8')"), {"s": "é"})), b"\xc3\xa9")
    engine.dispose()


def large(e):
    with Session(e) as s:
        s.add(Item(id=60, name="x" * BIG))
        s.commit()
        same(len(s.get(Item, 60).name), BIG)
        same(len(s.execute(text("SELECT n, repeat('y', 100) FROM generate_series(1, 20000) n")).all()), 20000)


def settings(_):
    engine = create_engine(f"postgresql+{DIALECT}{URL}", pool_size=1, isolation_level="AUTOCOMMIT")
    with engine.connect() as c:
        c.execute(text("SET TIME ZONE 'Asia/Tokyo'"))
        for _ in range(20):
            same(c.scalar(text("SELECT current_setting('TimeZone')")), "Asia/Tokyo")
    engine.dispose()


def reconnect(e):
    for n in range(5):
        engine = opened()
        with engine.connect() as c:
            same(c.scalar(text("SELECT CAST(:n AS int)"), {"n": n}), n)
        engine.dispose()
    with e.connect() as c, Raises():
        c.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    with e.connect() as c:
        same(c.scalar(text("SELECT CAST(:n AS int)"), {"n": 7}), 7)


print("version", sqlalchemy.__version__, "over", DIALECT)
run(
    dict(connect=connect, crud=crud, transaction=transaction, rollback=rollback, prepared=prepared, reprepared=reprepared,
         batch=batch, copy=copy, cursor=cursor, cancel=cancel, timeout=timeout, error=error, null=null, binary=binary,
         array=array, unicode=unicode, latin1=latin1, large=large, settings=settings, reconnect=reconnect),
    opened, lambda e: e.dispose(),
)

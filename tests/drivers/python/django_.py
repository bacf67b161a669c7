"""Django: the ORM over psycopg 3 with server-side parameters, server-side cursors and its own connection handling."""

import threading

import django
from django.conf import settings as project
from django.db import connection, connections, models, transaction as tx
from django.db.models import F
from django.db.models.functions import Upper

from steps import ALL_BYTES, BIG, DATABASE, HOST, PASSWORD, PORT, TABLE, TAGS, TEXT, USER, Raises, run, same

ENTRY = dict(ENGINE="django.db.backends.postgresql", HOST=HOST, PORT=PORT, USER=USER, PASSWORD=PASSWORD, NAME=DATABASE,
             CONN_MAX_AGE=None, CONN_HEALTH_CHECKS=True, OPTIONS=dict(server_side_binding=True, prepare_threshold=2))
LATIN1 = {**ENTRY, "OPTIONS": dict(client_encoding="LATIN1")}
project.configure(DATABASES=dict(default=ENTRY, latin1=LATIN1), USE_TZ=True, TIME_ZONE="UTC", INSTALLED_APPS=["django.contrib.postgres"])
django.setup()

from django.contrib.postgres.fields import ArrayField  # noqa: E402  (only after the set-up)


class Item(models.Model):
    id = models.IntegerField(primary_key=True)
    name = models.TextField(null=True)
    data = models.BinaryField(null=True)
    tags = ArrayField(models.TextField(null=True), null=True)

    class Meta:
        app_label = "drivers"
        db_table = TABLE
        managed = False


def opened():
    connection.ensure_connection()
    return connection


def one(sql, *values, using="default"):
    with connections[using].cursor() as cursor:
        cursor.execute(sql, values)
        return cursor.fetchone()[0]


def connect(c):
    same(one("SELECT 1"), 1)
    same(c.pg_version >= 140000, True)
    Item.objects.all().delete()


def crud(_):
    Item.objects.create(id=1, name="a")
    Item.objects.create(id=2, name="b")
    same(Item.objects.filter(id=1).update(name="c"), 1)
    same(Item.objects.get(id=1).name, "c")
    same(Item.objects.all().delete()[0], 2)


def transaction(_):
    with tx.atomic():
        Item.objects.create(id=10)
        Item.objects.create(id=11)
    same(Item.objects.filter(id__in=[10, 11]).count(), 2)


def rollback(_):
    with tx.atomic():
        Item.objects.create(id=20)
        with tx.atomic():
            Item.objects.create(id=21)
            tx.set_rollback(True)
        same(Item.objects.filter(id__in=[20, 21]).count(), 1)
        tx.set_rollback(True)
    same(Item.objects.filter(id__in=[20, 21]).count(), 0)


def prepared(_):
    Item.objects.create(id=25, name="n")
    for n in range(30):
        same(one("SELECT %s::int + 1", n), n + 1)
        same(Item.objects.filter(id=25).values_list(Upper("name"), flat=True)[0], "N")
        same(Item.objects.annotate(sum=F("id") + n).get(id=25).sum, 25 + n)


def reprepared(c):
    for _ in range(3):  # a new connection counts its statements from the start: the same names
        c.close()
        for n in range(10):
            same(one(f"SELECT %s::int + {n % 3}", n), n + n % 3)


def batch(_):
    Item.objects.bulk_create([Item(id=n) for n in range(100, 150)], batch_size=20)
    same(Item.objects.filter(id__range=(100, 149)).count(), 50)
    Item.objects.bulk_update([Item(id=n, name=str(n)) for n in range(100, 150)], ["name"])
    same(Item.objects.get(id=149).name, "149")


def copy(c):
    with c.cursor() as cursor:
        with cursor.copy(f"COPY {TABLE}(id, name) FROM STDIN") as rows:
            for n in range(1000, 2000):
                rows.write_row((n, f"row {n}"))
    same(Item.objects.filter(id__gte=1000).count(), 1000)


def cursor(_):
    with tx.atomic():
        same(sum(item.id for item in Item.objects.filter(id__gte=1000).iterator(chunk_size=100)), 1499500)
    # Outside a transaction Django asks for WITH HOLD, which lives as long as its connection.
    same(sum(item.id for item in Item.objects.filter(id__gte=1000).iterator(chunk_size=100)), 1499500)


def cancel(c):
    timer = threading.Timer(0.2, c.connection.cancel_safe)
    timer.start()
    with Raises("57014"):
        one("SELECT pg_sleep(20)")
    timer.join()
    same(one("SELECT 1"), 1)


def timeout(_):
    with Raises("57014"), tx.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL statement_timeout = '100ms'")
            cursor.execute("SELECT pg_sleep(20)")
    same(one("SELECT 1"), 1)


def error(_):
    with Raises("22012"):
        one("SELECT 1 / %s::int", 0)
    with Raises("23505"):
        Item.objects.bulk_create([Item(id=70), Item(id=70)])
    with tx.atomic():
        with Raises("42703"), tx.atomic():
            one("SELECT nothing")
        same(one("SELECT 10 / %s::int", 2), 5)


def null(_):
    Item.objects.create(id=30, name=None)
    same(Item.objects.get(id=30, name__isnull=True).name, None)


def binary(_):
    Item.objects.create(id=40, data=ALL_BYTES)
    same(bytes(Item.objects.get(id=40).data), ALL_BYTES)


def array(_):
    Item.objects.create(id=50, tags=TAGS)
    same(Item.objects.get(id=50, tags__contains=["ü"]).tags, TAGS)


def unicode(_):
    same(one("SELECT %s::text", TEXT), TEXT)
    same(one("SELECT length(%s::text)", TEXT), len(TEXT))


def latin1(_):
    for _ in range(10):
        same(bytes(one("SELECT convert_to(%s::text, 'UTF8')", "é", using="latin1")), b"\xc3\xa9")
    connections["latin1"].close()


def large(_):
    Item.objects.create(id=60, name="x" * BIG)
    same(len(Item.objects.get(id=60).name), BIG)


def settings(c):
    c.cursor().execute("SET TIME ZONE 'Asia/Tokyo'")
    for _ in range(20):
        same(one("SELECT current_setting('TimeZone')"), "Asia/Tokyo")
    c.cursor().execute("SET TIME ZONE 'UTC'")


def reconnect(c):
    for n in range(5):
        c.close()
        same(one("SELECT %s::int", n), n)
    with Raises():
        one("SELECT pg_terminate_backend(pg_backend_pid())")
    c.close_if_unusable_or_obsolete()  # what a request does at its start
    same(one("SELECT %s::int", 7), 7)


print("version", django.__version__, "over psycopg 3")
run(
    dict(connect=connect, crud=crud, transaction=transaction, rollback=rollback, prepared=prepared, reprepared=reprepared,
         batch=batch, copy=copy, cursor=cursor, cancel=cancel, timeout=timeout, error=error, null=null, binary=binary,
         array=array, unicode=unicode, latin1=latin1, large=large, settings=settings, reconnect=reconnect),
    opened, lambda c: c.close(),
)

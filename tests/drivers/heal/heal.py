"""What the Python programmes share: what they ask, how answers are judged and counted."""

import contextlib
import os
import sys
import threading
import time

# How long anybody may take to end once STOP is there, in seconds.
GRACE = 20
STATEMENTS = [
    "SELECT * FROM healed WHERE id = $1",
    "SELECT id, name FROM healed WHERE id = $1",
    "SELECT id, amount FROM healed WHERE id = $1",
    "SELECT h.*, o.name AS other FROM healed h JOIN healed o USING (id) WHERE h.id = $1",
    "UPDATE healed SET note = 'n' WHERE id = $1 RETURNING *",
]
BLOCK = [STATEMENTS[0], STATEMENTS[1], STATEMENTS[2]]
ROWS = 100
SHOWN = 5


class Deadline:
    """Over when the file STOP is there."""

    def __init__(self):
        self.seen = False
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self):
        while not os.path.exists(os.environ["STOP"]):
            time.sleep(0.05)
        self.seen = True

    def over(self):
        return self.seen

    def wait(self):
        while not self.seen:
            time.sleep(0.05)


deadline = Deadline()


def key_of(turn):
    return turn * 7 % ROWS + 1


def check(rows, key):
    """The row that was asked for, each value under the name of its column."""
    if len(rows) != 1:
        raise AssertionError(f"{len(rows)} rows for {key}")
    row = dict(rows[0])
    wanted = {"id": key, "name": f"name{key}", "amount": key * 10, "other": f"name{key}", "note": "n", "extra": "e", "added": None}
    for column, value in row.items():
        if wanted[column] != value:
            raise AssertionError(f"{column} of {key} is {value!r}")


def changed(text):
    return "cached plan must not change result type" in text or "cached statement plan is invalid" in text


class Figures:
    def __init__(self):
        self.statements = self.errors = self.blocks = self.failed = self.odd = 0
        self.slowest = 0.0
        self.shown = []

    @contextlib.contextmanager
    def statement(self, sql):
        began = time.monotonic()
        try:
            yield
            self.statements += 1
            if self.statements == 200:
                print("ready", flush=True)
        except Exception as error:
            self.errors += 1
            self.show(f"{sql}: {type(error).__name__}: {error}")
        self.slowest = max(self.slowest, time.monotonic() - began)

    def block_failed(self, as_postgres_would, error):
        self.failed += 1
        if not as_postgres_would:
            self.odd += 1
            self.show(f"in a transaction: {type(error).__name__}: {error}")

    def show(self, text):
        if len(self.shown) < SHOWN:
            self.shown.append(" ".join(text.split())[:200])

    def print(self, version, stuck):
        for text in self.shown:
            print(f"ERROR {text}")
        if stuck:
            print("ERROR somebody is stuck")
        print(
            f"figures statements={self.statements} errors={self.errors} blocks={self.blocks} changed={self.failed} "
            f"odd={self.odd} stuck={int(stuck)} slowest_ms={round(self.slowest * 1000)} version={version.replace(' ', '-')}"
        )
        sys.stdout.flush()
        os._exit(0)

"""What the Python programmes share: runs the steps and prints one line for each (see ../README.md)."""

import os
import sys
import traceback

LAPS = int(os.environ.get("LAPS", "1"))
TABLE = os.environ.get("TABLE", "items")
HOST, PORT = os.environ.get("PGHOST", "127.0.0.1"), int(os.environ.get("PGPORT", "5432"))
USER, PASSWORD = os.environ.get("PGUSER", ""), os.environ.get("PGPASSWORD", "")
DATABASE = os.environ.get("PGDATABASE", "")
ALL_BYTES = bytes(range(256))
TAGS = ["plain", 'quo"te', "comma,", "back\\slash", "", None, "NULL", "ü"]
TEXT = "naïve 漢字 😀 \u0301 'quoted' \\ \t"
BIG = 4 << 20


class Skip(Exception):
    """The driver has no such thing."""


def same(got, want):
    """Fails the step unless both are equal."""
    if got != want:
        raise AssertionError(f"got {str(got)[:80]!r}, expected {str(want)[:80]!r}")


def state(error):
    """SQLSTATE of an error, whatever the driver calls it; for a wrapped one, that of its cause."""
    for one in (error, getattr(error, "orig", None), error.__cause__):
        for name in ("sqlstate", "pgcode"):
            if getattr(one, name, None):
                return getattr(one, name)
        if one is not None and one.args and isinstance(one.args[0], dict):
            return one.args[0].get("C")
    return None


class Raises:
    """`with Raises("22012"):` fails the step unless the body raises an error of that SQLSTATE (without one: any error)."""

    def __init__(self, want=None):
        self.want = want

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        if error is None:
            raise AssertionError(f"no error, expected {self.want}")
        if self.want and state(error) != self.want:
            raise AssertionError(f"{state(error)} {kind.__name__}, expected {self.want}") from error
        return True


def run(steps, opened, close, call=lambda step, *arguments: step(*arguments)):
    """Runs all steps LAPS times on one connection; after a failure the next step gets a new one."""
    failed = False
    for _ in range(LAPS):
        connection = None
        for name, step in steps.items():
            try:
                connection = connection or call(opened)
                call(step, connection)
                print("ok", name, flush=True)
            except Skip as why:
                print("skip", name, why, flush=True)
            except Exception as error:  # whatever it is, it is the step's result
                failed = True
                if os.environ.get("TRACE"):
                    traceback.print_exc()
                reason = " ".join(f"{state(error) or ''} {type(error).__name__}: {error}".split())
                print("FAIL", name, reason[:160], flush=True)
                connection = shut(call, close, connection)
        shut(call, close, connection)
    sys.exit(1 if failed else 0)


def shut(call, close, connection):
    try:
        if connection:
            call(close, connection)
    except Exception:  # it is broken already
        pass

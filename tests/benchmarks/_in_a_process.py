"""What is measured in a process of its own, so that nothing else has grown or warmed it.

``python -m tests.benchmarks._in_a_process TASK ARGUMENT`` prints one JSON object, an ``Outcome``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["Outcome", "fresh_interpreter", "run_task"]

ROOT = Path(__file__).parents[2]
ROWS = 1_000_000
_SERIES = f"SELECT g AS id, 'row ' || g AS name FROM generate_series(1, {ROWS}) AS g"
_NOBODY = "00000000-0000-4000-8000-000000000001"


class Outcome(TypedDict):
    """What a task took: seconds, and by how many bytes the process grew, at its peak and after."""

    seconds: float
    peak: float
    kept: float


def run_task(task: str, argument: str, environ: Mapping[str, str] | None = None) -> Outcome:
    """Run a task in a process of its own.

    Args:
        task: Its name in ``TASKS``.
        argument: What it works on, mostly a URL.
        environ: Environment variables to add.
    """
    words = ["-m", "tests.benchmarks._in_a_process", task, argument]
    found: Outcome = json.loads(fresh_interpreter(words, environ))
    return found


def fresh_interpreter(words: list[str], environ: Mapping[str, str] | None = None) -> str:
    """Run Python with *words*; return what it printed."""
    # Compiled files are cached as in any installation, whatever this shell has set.
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env=env | dict(environ or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def memory(name: str) -> int:
    """Return what the kernel says of this process: ``VmRSS`` now, ``VmHWM`` at its highest."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"the kernel does not report {name}")


def _read_all(rows: Iterable[Mapping[str, Any]]) -> None:
    count = sum(1 for _ in rows)
    assert count == ROWS, count


def _client(url: str, opened: ExitStack) -> Any:
    from clients import PostgresClient  # noqa: PLC0415 - each task imports what it measures

    return opened.enter_context(PostgresClient(url, 1, min_size=1))


def _psycopg(url: str, opened: ExitStack) -> Any:
    import psycopg  # noqa: PLC0415 - likewise
    from psycopg.rows import dict_row  # noqa: PLC0415 - likewise

    return opened.enter_context(psycopg.connect(url, row_factory=dict_row))


def stream(url: str, opened: ExitStack) -> Callable[[], None]:
    """Read a million rows with ``stream()``."""
    client = _client(url, opened)

    def work() -> None:
        with client.stream(_SERIES, user_id=_NOBODY) as rows:
            _read_all(rows)

    return work


def execute(url: str, opened: ExitStack) -> Callable[[], None]:
    """Read them with ``execute()``."""
    client = _client(url, opened)
    return lambda: _read_all(client.execute(_SERIES, user_id=_NOBODY))


def named_cursor(url: str, opened: ExitStack) -> Callable[[], None]:
    """Read them with psycopg's cursor on the server."""
    connection = _psycopg(url, opened)

    def work() -> None:
        with connection.cursor("rows") as cursor:
            cursor.itersize = 1000
            _read_all(cursor.execute(_SERIES))

    return work


def fetch_all(url: str, opened: ExitStack) -> Callable[[], None]:
    """Read them with psycopg's ``fetchall()``."""
    connection = _psycopg(url, opened)
    return lambda: _read_all(connection.execute(_SERIES).fetchall())


def build(argument: str, opened: ExitStack) -> Callable[[], None]:
    """Build all three clients, from the environment."""
    del argument
    from clients import build_clients  # noqa: PLC0415 - likewise

    def work() -> None:
        opened.push(build_clients())

    return work


def build_drivers(argument: str, opened: ExitStack) -> Callable[[], None]:
    """Open the same connections with the drivers alone."""
    del argument
    from tests.benchmarks._bare_drivers import open_drivers  # noqa: PLC0415 - likewise

    return lambda: open_drivers(os.environ["VAULT_ADDR"], os.environ["VAULT_TOKEN"], opened)


TASKS: dict[str, Callable[[str, ExitStack], Callable[[], None]]] = {
    "stream": stream,
    "execute": execute,
    "named cursor": named_cursor,
    "fetch all": fetch_all,
    "build": build,
    "build drivers": build_drivers,
}


def _main(task: str, argument: str) -> Outcome:
    with ExitStack() as opened:
        work = TASKS[task](argument, opened)
        before = memory("VmRSS")
        started = time.perf_counter()
        work()
        taken = time.perf_counter() - started
        peak, now = memory("VmHWM"), memory("VmRSS")
        return {"seconds": taken, "peak": peak - before, "kept": now - before}


if __name__ == "__main__":
    print(json.dumps(_main(*sys.argv[1:])))  # noqa: T201 - how the parent learns the outcome

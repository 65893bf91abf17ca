"""A process with a client of each kind in one state of OpenTelemetry, which makes calls when told.

``python -m tests.benchmarks._telemetry_state STATE POSTGRES VALKEY`` prints a line when it is
ready, and one for each line ``execute N`` or ``get N`` of its input, when it has made the calls.
"""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.machinery import ModuleSpec

__all__ = ["ABSENT", "NO_PROVIDER", "SAMPLING_OFF", "TelemetryState"]

ABSENT = "OpenTelemetry absent"
NO_PROVIDER = "present, no provider"
SAMPLING_OFF = "present, sampling off"
_USER = UUID("00000000-0000-4000-8000-0000000b0b0b")


class TelemetryState:
    """The process, seen from the benchmark.

    Args:
        state: ``ABSENT``, ``NO_PROVIDER`` or ``SAMPLING_OFF``.
        postgres: The database's URL.
        valkey: Valkey's URL.
    """

    def __init__(self, state: str, postgres: str, valkey: str) -> None:
        words = [sys.executable, "-m", "tests.benchmarks._telemetry_state", state, postgres, valkey]
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        self._wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.communicate()

    def make(self, method: str, calls: int) -> None:
        """Have it make so many calls, and wait until they are done."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{method} {calls}\n")
        self._process.stdin.flush()
        self._wait()

    def _wait(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "done\n"


class _Blocked:
    """An import hook: as if the package were not installed."""

    @staticmethod
    def find_spec(name: str, *_: Any) -> ModuleSpec | None:
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


def _enter(state: str) -> None:
    if state == ABSENT:
        sys.meta_path.insert(0, _Blocked())
        return
    from opentelemetry import metrics, trace  # noqa: PLC0415 - not in every state

    assert metrics is not None
    if state == SAMPLING_OFF:
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - likewise
        from opentelemetry.sdk.trace.sampling import ALWAYS_OFF  # noqa: PLC0415 - likewise

        trace.set_tracer_provider(TracerProvider(sampler=ALWAYS_OFF))


def _main(state: str, postgres: str, valkey: str) -> None:
    _enter(state)
    from clients import PostgresClient, ValkeyClient  # noqa: PLC0415 - after the hook

    database, cache = PostgresClient(postgres, 1, min_size=1), ValkeyClient(valkey)
    calls: dict[str, Callable[[], object]] = {
        "execute": lambda: database.execute("SELECT 1 AS one", (), _USER),
        "get": lambda: cache.get("telemetry"),
    }
    # As in the process that measures.
    gc.disable()
    print("done", flush=True)  # noqa: T201 - see the module
    for line in sys.stdin:
        method, _, number = line.partition(" ")
        call = calls[method]
        for _ in range(int(number)):
            call()
        print("done", flush=True)  # noqa: T201 - likewise


if __name__ == "__main__":
    _main(*sys.argv[1:])

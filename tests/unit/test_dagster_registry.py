"""One client for each configuration in a process, closed at the end of the process."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clients import VaultConnectionError
from clients._dagster.registry import (
    close_shared_clients,
    existing_client,
    shared_client,
)
from clients._shared.lifecycle import Lifecycle

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
THREADS = 16


class Client(Lifecycle):
    """Notes when it is closed."""

    def __init__(self, name: str, closed: list[str], *, fails: bool = False) -> None:
        self.name, self.closed, self.fails = name, closed, fails

    def close(self) -> None:
        """Note it, and fail where asked to."""
        self.closed.append(self.name)
        if self.fails:
            raise RuntimeError("canary-4b7e")


@pytest.fixture(autouse=True)
def _closed_registry() -> Iterator[None]:
    yield
    close_shared_clients()


def test_threads_that_ask_together_get_one_client() -> None:
    """One thread makes it, and all others wait for it."""
    made: list[Client] = []
    start = threading.Barrier(THREADS)
    slow = threading.Event()

    def make() -> Client:
        slow.wait(0.05)
        made.append(Client("a", []))
        return made[-1]

    def ask(_: int) -> Client:
        start.wait()
        return shared_client("key", make)

    with ThreadPoolExecutor(THREADS) as pool:
        got = list(pool.map(ask, range(THREADS)))

    assert len(made) == 1
    assert all(one is made[0] for one in got)
    assert existing_client("key") is made[0]


def test_a_failure_is_told_to_all_that_wait_and_not_kept() -> None:
    """Sixteen threads cost one try; each gets an error of its own; the next call tries anew."""
    tries: list[int] = []
    start = threading.Barrier(THREADS)
    slow = threading.Event()

    def fail() -> Client:
        tries.append(1)
        slow.wait(0.2)
        raise VaultConnectionError("unreachable", reason="unreachable")

    def ask(_: int) -> VaultConnectionError:
        start.wait()
        with pytest.raises(VaultConnectionError, match="unreachable") as raised:
            shared_client("key", fail)
        return raised.value

    with ThreadPoolExecutor(THREADS) as pool:
        errors = list(pool.map(ask, range(THREADS)))

    assert len(tries) == 1
    assert len({id(error) for error in errors}) == THREADS
    assert {error.reason for error in errors} == {"unreachable"}
    assert existing_client("key") is None
    assert shared_client("key", lambda: Client("b", [])).name == "b"


def test_an_interrupted_thread_is_no_answer_for_another() -> None:
    """Whoever waited for a thread that was interrupted makes the client itself."""
    making, waiting = threading.Event(), threading.Event()

    def interrupted() -> Client:
        making.set()
        waiting.wait(5)
        raise KeyboardInterrupt

    def ask() -> str:
        making.wait(5)
        threading.Timer(0.05, waiting.set).start()
        return shared_client("key", lambda: Client("b", [])).name

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(ask)
        with pytest.raises(KeyboardInterrupt):
            shared_client("key", interrupted)

        assert other.result(5) == "b"


def test_different_configurations_do_not_wait_for_each_other() -> None:
    """A slow server holds nobody who asks for another one."""
    making, go_on = threading.Event(), threading.Event()

    def slow() -> Client:
        making.set()
        go_on.wait(5)
        return Client("slow", [])

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(shared_client, "slow", slow)
        making.wait(5)

        assert existing_client("slow") is None
        assert shared_client("fast", lambda: Client("fast", [])).name == "fast"
        assert not other.done()
        go_on.set()


def test_clients_are_closed_in_reverse_even_when_one_fails(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What was built on another is closed before it; a failure is logged without its text."""
    closed: list[str] = []
    for name in ("vault", "broken", "pools"):
        shared_client(name, lambda name=name: Client(name, closed, fails=name == "broken"))  # type: ignore[misc]  # mypy cannot infer a lambda with a default

    close_shared_clients()
    close_shared_clients()

    assert closed == ["pools", "broken", "vault"]
    assert "could not be closed at the end of the process: RuntimeError" in caplog.text
    assert "canary" not in caplog.text


def test_a_client_that_is_still_being_made_is_closed_when_it_is_made() -> None:
    """The end of the process does not leave a late login's token behind."""
    closed: list[str] = []
    making, go_on = threading.Event(), threading.Event()

    def slow() -> Client:
        making.set()
        go_on.wait(5)
        return Client("late", closed)

    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(shared_client, "key", slow)
        making.wait(5)
        close_shared_clients()
        go_on.set()
        late.result(5)

    assert closed == ["late"]


PROGRAM = """
import gc, multiprocessing, multiprocessing.util, os, sys, weakref
from clients._dagster.registry import shared_client, existing_client
from clients._shared.lifecycle import Lifecycle

class Client(Lifecycle):
    def __init__(self, name):
        self.name, self.pid = name, os.getpid()
    def close(self):
        os.write(1, f"{self.name} closed by its own: {os.getpid() == self.pid}\\n".encode())

inherited = lambda: True

def child():
    assert existing_client("key") is None
    gc.collect()
    assert inherited() is not None, "a parent's client was collected, and its sockets closed"
    shared_client("key", lambda: Client("child"))

if __name__ == "__main__":
    inherited = weakref.ref(shared_client("key", lambda: Client("parent")))
    method = sys.argv[1]
    if method == "no finalizers":
        multiprocessing.util._finalizer_registry.clear()
    elif method == "os.fork":
        if os.fork() == 0:
            child()
            sys.exit()
        os.wait()
    else:
        process = multiprocessing.get_context(method).Process(target=child)
        process.start()
        process.join()
        assert process.exitcode == 0
"""


@pytest.mark.parametrize(
    "method",
    [
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("spawn", "forkserver", "os.fork")),
        "fork",
    ],
)
def test_each_process_closes_its_own_clients_at_its_end(method: str, tmp_path: Path) -> None:
    """However a child was started, it makes and closes its own, once, and not its parent's."""
    assert closed_in_program(method, tmp_path) == [
        "child closed by its own: True",
        "parent closed by its own: True",
    ]


def test_the_end_of_a_process_needs_no_help_of_multiprocessing(tmp_path: Path) -> None:
    """Its finalizers run in the main process, too, which is documented nowhere."""
    assert closed_in_program("no finalizers", tmp_path) == ["parent closed by its own: True"]


def closed_in_program(method: str, folder: Path) -> list[str]:
    program = folder / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(program), method],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()

"""What the tests of PostgresClient share."""

from __future__ import annotations

import gc
import logging
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from clients.postgres_client import PostgresClient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from clients._postgres.guarded import GuardedConnection
    from utils.local_stack import StackEndpoints

__all__ = [
    "add_contact",
    "client_that_loses_nothing",
    "contact_names",
    "nothing_left_behind",
    "one_session_client",
    "open_sockets",
    "run_in_thread",
]


def one_session_client(stack: StackEndpoints, **settings: Any) -> PostgresClient:
    """Make a client whose calls all use one session: each is the last one's next borrower."""
    settings = {"pool_size": 1, "min_size": 1, "pool_timeout": 2.0, **settings}
    return PostgresClient(stack.database_url, **settings)


@contextmanager
def client_that_loses_nothing(
    url: str, pool_size: int, **settings: Any
) -> Iterator[PostgresClient]:
    """Open a client; at the end all places of its pool have to be free again."""
    with PostgresClient(url, pool_size, **settings) as made:
        yield made
        assert made.stats()["in_use"] == 0


def add_contact(client: PostgresClient, user: UUID, name: str) -> None:
    client.execute("INSERT INTO contacts (user_id, name) VALUES (%s, %s)", (user, name), user)


def contact_names(
    client: PostgresClient | GuardedConnection, user: UUID | None = None
) -> list[str]:
    """Return what the user sees, in order of names."""
    query = "SELECT name FROM contacts ORDER BY name"
    if isinstance(client, PostgresClient):
        return [row["name"] for row in client.execute(query, user_id=user or uuid4())]
    return [row["name"] for row in client.execute(query).fetchall()]


def run_in_thread(function: Any, timeout: float = 120.0) -> Any:
    """Run *function* in a thread of its own, and return what it returned or raise what it did."""
    outcome: list[Any] = []

    def target() -> None:
        try:
            outcome.append((function(), None))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            outcome.append((None, error))

    # A daemon: one that hangs shall fail its test, and not the end of the run.
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    thread.join(timeout)
    assert not thread.is_alive(), "the thread hangs"
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


def open_sockets() -> set[str]:
    """Return the sockets that this process has open, by the system's own names."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        # The folder's own descriptor is gone by the time that it is read.
        with suppress(OSError):
            found.add(descriptor.readlink().name)
    return {name for name in found if name.startswith("socket:")}


@contextmanager
def nothing_left_behind(caplog: Any) -> Iterator[None]:
    """Check that the block leaves no thread, no socket and no log line."""
    gc.collect()
    threads, sockets = set(threading.enumerate()), open_sockets()
    caplog.clear()
    with caplog.at_level(logging.DEBUG):
        yield
    gc.collect()

    # What another test left may end meanwhile, and is not counted.
    assert set(threading.enumerate()) <= threads
    assert open_sockets() <= sockets
    assert caplog.records == []

"""One client for each configuration in a process, closed when the process ends.

Dagster makes a new resource object for every step, sensor tick and nested use, and has no hook
that all of these pass at their end. So they share here what costs a login, and none of them closes
it: ``close()`` on a shared client does nothing before the process ends. No Dagster is imported.
"""

from __future__ import annotations

import atexit
import logging
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING, TypeVar, cast

from .._shared.fork import on_fork
from .._shared.lifecycle import Lifecycle, allow_close, keep_open
from .._shared.locks import OwnedLock
from .._shared.single_flight import SingleFlight
from ..errors import ClientError
from ..factory import Clients

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

__all__ = ["close_shared_clients", "existing_client", "shared_client"]

_log = logging.getLogger("clients.dagster")
_ClientT = TypeVar("_ClientT", bound=Lifecycle)


class _Registry:
    """The clients of this process, in the order in which they were made."""

    def __init__(self) -> None:
        #: The clients of parent processes: not this process's to close or to collect.
        self._inherited: list[dict[Hashable, Lifecycle]] = []
        self._making: SingleFlight[Hashable, Lifecycle] = SingleFlight()
        self._clients: dict[Hashable, Lifecycle] = {}
        self._start()
        on_fork(self._start)

    def _start(self) -> None:
        self._lock = OwnedLock()
        self._inherited.append(self._clients)
        self._clients = {}
        self._closed = 0
        self._closes_at_exit = False

    def get(self, key: Hashable, make: Callable[[], _ClientT]) -> _ClientT:
        known = self._clients.get(key)
        if known is None:
            known = self._making.run(key, lambda: self._made(key, make))
        return cast("_ClientT", known)

    def existing(self, key: Hashable) -> Lifecycle | None:
        return self._clients.get(key)

    def close(self) -> None:
        """Close in reverse order, because a later client may use an earlier one."""
        with self._lock:
            clients = list(self._clients.values())[::-1]
            self._clients.clear()
            # What another thread is still making is closed when it is made.
            self._closed += 1
        self._making.forget()
        for client in clients:
            _close(client)

    def _made(self, key: Hashable, make: Callable[[], Lifecycle]) -> Lifecycle:
        known = self._clients.get(key)
        if known is not None:  # another thread's call has just ended
            return known
        self._close_at_exit()
        closed = self._closed
        client = make()
        for one in _handed_out(client):
            keep_open(one)
        with self._lock:
            if self._closed == closed:
                self._clients[key] = client
                return client
        _close(client)
        return client

    def _close_at_exit(self) -> None:
        if self._closes_at_exit:
            return
        self._closes_at_exit = True
        atexit.register(close_shared_clients)
        # The children of multiprocessing end in os._exit, which runs no atexit callback. This
        # would do for both; it is undocumented, so it is not all that is relied on.
        Finalize(None, close_shared_clients, exitpriority=100)


def shared_client(key: Hashable, make: Callable[[], _ClientT]) -> _ClientT:
    """Return this process's client for *key*.

    Args:
        key: The whole configuration, and nothing else.
        make: Makes the client; called by one thread for all that want it together. A failure
            is raised to all of them, and not kept.

    Raises:
        ClientError: What *make* raised.
    """
    return _registry.get(key, make)


def existing_client(key: Hashable) -> Lifecycle | None:
    """Return this process's client for *key*, or None where nobody has made one."""
    return _registry.existing(key)


def close_shared_clients() -> None:
    """Close every client of this process; a client that is needed afterwards is made again."""
    _registry.close()


def _handed_out(client: Lifecycle) -> tuple[Lifecycle, ...]:
    """Return what others may come by; the Vault client among three is one of its own here."""
    return (client.postgres, client.valkey) if isinstance(client, Clients) else (client,)


def _close(client: Lifecycle) -> None:
    for one in _handed_out(client):
        allow_close(one)
    try:
        client.close()
    except Exception as error:  # noqa: BLE001 - the others must be closed, too
        # Nobody is left to catch it: the process is about to end.
        told = error if isinstance(error, ClientError) else type(error).__name__
        _log.warning("a client could not be closed at the end of the process: %s", told)


_registry = _Registry()

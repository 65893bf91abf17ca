"""One client for each configuration in a process, closed when the process ends.

Dagster makes a new resource object for every step, sensor tick and nested use, and has no hook
that all of these pass at their end. So they share here what costs a login. No Dagster is imported.
"""

from __future__ import annotations

import atexit
import copy
import logging
import os
from concurrent.futures import Future
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING, Any, TypeVar, cast

from .._shared.locks import OwnedLock
from ..errors import ClientError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from .._shared.lifecycle import Lifecycle

__all__ = ["close_shared_clients", "existing_client", "shared_client"]

_log = logging.getLogger("clients.dagster")
_ClientT = TypeVar("_ClientT", bound="Lifecycle")


class _Registry:
    """The clients of one process, in the order in which they were made."""

    def __init__(self) -> None:
        self._lock = OwnedLock()
        self._clients: dict[Hashable, Future[Lifecycle | None]] = {}
        self._closes_at_exit = False

    def get(self, key: Hashable, make: Callable[[], _ClientT]) -> _ClientT:
        mine: Future[Any] = Future()
        try:
            while (other := self._reserve(key, mine)) is not mine:
                if (client := _client_of(other)) is not None:
                    return cast("_ClientT", client)
            made = make()
            mine.set_result(made)
        except BaseException as error:
            # Forgotten before the waiting threads hear of it, so that the next call tries anew.
            with self._lock:
                if self._clients.get(key) is mine:
                    del self._clients[key]
            if isinstance(error, ClientError):
                mine.set_exception(error)
            elif not mine.done():  # an interruption of this thread is no answer for another one
                mine.set_result(None)
            raise
        return made

    def existing(self, key: Hashable) -> Lifecycle | None:
        with self._lock:
            future = self._clients.get(key)
        return future.result() if future is not None and future.done() else None

    def close(self) -> None:
        """Close in reverse order, because a later client may use an earlier one."""
        with self._lock:
            futures = list(self._clients.values())[::-1]
            self._clients.clear()
        for future in futures:
            # What another thread is still making is closed when it is made.
            future.add_done_callback(_close_result)

    def _reserve(self, key: Hashable, mine: Future[Any]) -> Future[Any]:
        """Return who makes, or has made, the client for *key*: *mine*, when nobody did before."""
        with self._lock:
            self._close_at_exit()
            return self._clients.setdefault(key, mine)

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
        make: Makes the client; called by one thread for all that ask at the same time. A failure
            is told to all of them, and not kept.

    Raises:
        ClientError: What *make* raised.
    """
    return _registry.get(key, make)


def existing_client(key: Hashable) -> Lifecycle | None:
    """Return this process's client for *key*, or None where nobody has made one."""
    return _registry.existing(key)


def close_shared_clients() -> None:
    """Close every client of this process; a client that is asked for afterwards is made anew."""
    _registry.close()


def _client_of(other: Future[Any]) -> Lifecycle | None:
    """Wait for another thread's client; None when that thread was interrupted."""
    try:
        client: Lifecycle | None = other.result()
    except ClientError as error:
        # Threads must not raise one and the same object: each adds its own traceback.
        raise copy.copy(error) from error.__cause__
    return client


def _close_result(future: Future[Lifecycle | None]) -> None:
    if future.exception() is not None:
        return
    client = future.result()
    try:
        if client is not None:
            client.close()
    except Exception as error:  # noqa: BLE001 - the others must be closed, too
        # Nobody is left to catch it: the process is about to end.
        told = error if isinstance(error, ClientError) else type(error).__name__
        _log.warning("a client could not be closed at the end of the process: %s", told)


_registry = _Registry()
#: Registries of parent processes. What is in them is not this process's to close or to collect.
_inherited: list[_Registry] = []


def _start_anew_in_child() -> None:
    # The parent's lock may have been held at the fork, by a thread that does not exist here.
    global _registry  # noqa: PLW0603 - this process's one registry
    _inherited.append(_registry)
    _registry = _Registry()


os.register_at_fork(after_in_child=_start_anew_in_child)

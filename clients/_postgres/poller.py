"""Wait for a socket: with poll() where the platform and the event loop in use leave it."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["READ", "WRITE", "Poller", "new_poller"]

READ = getattr(select, "POLLIN", 1)
WRITE = getattr(select, "POLLOUT", 4)


class Poller(Protocol):
    """The part of ``select.poll`` that is used here."""

    def register(self, fd: int, eventmask: int, /) -> object:
        """Begin to wait for *eventmask* on *fd*."""

    def modify(self, fd: int, eventmask: int, /) -> object:
        """Wait for *eventmask* on *fd* from now on."""

    def poll(self, timeout: float | None = None, /) -> Sequence[tuple[int, int]]:
        """Return what is ready within *timeout* milliseconds; None waits until something is."""


class _SelectPoller:
    """``select.select`` in the shape of a poll object."""

    def __init__(self) -> None:
        self._events: dict[int, int] = {}

    def register(self, fd: int, eventmask: int, /) -> None:
        self._events[fd] = eventmask

    modify = register

    def poll(self, timeout: float | None = None, /) -> Sequence[tuple[int, int]]:
        readable = [fd for fd, events in self._events.items() if events & READ]
        writable = [fd for fd, events in self._events.items() if events & WRITE]
        seconds = None if timeout is None else timeout / 1000
        ready_to_read, ready_to_write, _ = select.select(readable, writable, [], seconds)
        ready = dict.fromkeys(ready_to_read, READ)
        for fd in ready_to_write:
            ready[fd] = ready.get(fd, 0) | WRITE
        return list(ready.items())


def new_poller(fd: int) -> Poller:
    """Return a poller that waits for something to read from *fd*.

    Eventlet takes ``select.poll`` away, and gives a ``select.select`` that lets others run.

    Args:
        fd: The socket's descriptor.
    """
    poll = getattr(select, "poll", None)
    poller: Poller = _SelectPoller() if poll is None else poll()
    poller.register(fd, READ)
    return poller

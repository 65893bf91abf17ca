"""Servers that did not answer in time: each is probed without waiting for it.

A call that has another answer at hand need not wait for a server that is known to be silent. The
probe is a socket of its own with a PING on it, which such calls look at in passing. Whatever comes
back on it, an error too, says that the server answers again: no thread and no clock is needed.
"""

from __future__ import annotations

import errno
import socket
import time
from contextlib import suppress
from typing import Any

from redis.exceptions import TimeoutError as DriverTimeoutError

from .._shared.fork import on_fork
from .._shared.locks import OwnedLock
from .url import Address

__all__ = ["AnyConnection", "Place", "ServerSilent", "SilentServers", "place_of"]

#: A redis-py connection. Its send, read and pack methods are semi-public, and untyped.
AnyConnection = Any
#: Where a server is: an address, or the path of a Unix socket.
Place = Address | str

_PING = b"PING\r\n"
#: Seconds after which the question is sent again: a host that was replaced answers that alone.
_ASK_AGAIN = 1.0
#: Seconds until the next try where a server cannot be probed, because its name has no address.
_TRY_AGAIN = 5.0


class ServerSilent(DriverTimeoutError):  # noqa: N818 - it never leaves this SDK
    """The server is known not to answer; nothing was sent."""


class SilentServers:
    """Remembers which servers did not answer in time, until they do again."""

    def __init__(self) -> None:
        self._start()
        on_fork(self._start)

    def _start(self) -> None:
        self._probes: dict[Place, _Probe] = {}
        self._lock = OwnedLock()

    def note(self, place: Place) -> None:
        """Note that the server at *place* did not answer in time."""
        if place not in self._probes:
            self._probes[place] = _Probe(place)

    def is_silent(self, place: Place) -> bool:
        """Return whether the server at *place* did not answer, and does not yet; without a wait."""
        if place not in self._probes:
            return False
        with self._lock:
            probe = self._probes.get(place)
            if probe is None:
                return False
            if not probe.has_answered():
                return True
            del self._probes[place]
        return False

    def refuse(self, place: Place) -> None:
        """Raise when the server at *place* is silent.

        Raises:
            ServerSilent: It is.
        """
        if self.is_silent(place):
            raise ServerSilent(
                f"the server at {place} did not answer the last call, and does not answer yet"
            )

    def clear(self) -> None:
        """Forget all of them."""
        self._probes.clear()


class _Probe:
    def __init__(self, place: Place) -> None:
        self._socket: socket.socket | None = None
        self._target: Any = place
        self._began = self._asked = time.monotonic()
        self._has_asked = False
        family = socket.AF_UNIX
        with suppress(OSError, UnicodeError):
            if isinstance(place, Address):
                # The call that failed has just looked the name up.
                found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
                family, self._target = found[0][0], found[0][4]
            self._socket = socket.socket(family, socket.SOCK_STREAM)
            self._socket.settimeout(0)
            self._socket.connect_ex(self._target)

    def __del__(self) -> None:
        if self._socket is not None:
            self._socket.close()

    def has_answered(self) -> bool:
        """Ask when it is time to, and return whether anything has come back."""
        now = time.monotonic()
        if self._socket is None:
            return now - self._began > _TRY_AGAIN
        try:
            if not self._has_asked or now - self._asked > _ASK_AGAIN:
                self._socket.send(_PING)
                self._has_asked, self._asked = True, now
            self._socket.recv(1)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                # Refused or reset: somebody answers, and the next call will say what.
                return True
            self._socket.connect_ex(self._target)
            return False
        return True


def place_of(connection: AnyConnection) -> Place:
    """Return where a redis-py connection leads to."""
    path = getattr(connection, "path", None)
    return path if path is not None else Address(connection.host, connection.port)

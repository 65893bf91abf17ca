"""Servers that did not answer in time: each is probed without waiting for it.

A call that has another answer at hand need not wait for a server that is known to be silent. Such
calls look at two things in passing. One is the connection that still owes the reply: whatever comes
on it says that the server answers again. The other is a socket with a PING on it, which a server
answers that is in the place of the old one. It alone says less: a server whose clients are paused
for a planned fail-over refuses a PING without a login immediately, and answers nothing else.

Source: https://valkey.io/commands/client-pause/.
"""

from __future__ import annotations

import errno
import socket
import time
from contextlib import suppress
from ssl import SSLWantReadError
from typing import TYPE_CHECKING, Any, TypeVar

from redis.exceptions import TimeoutError as DriverTimeoutError

from .._shared.fork import on_fork
from .._shared.locks import OwnedLock
from .url import Address

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["AnyConnection", "Place", "ServerSilent", "SilentServers", "place_of"]

#: A redis-py connection. Its send, read and pack methods are semi-public, and untyped.
AnyConnection = Any
#: Where a server is: an address, or the path of a Unix socket.
Place = Address | str
_PlaceT = TypeVar("_PlaceT", bound=Place)

_PING = b"PING\r\n"
#: Seconds after which the probe is sent again: a host that was replaced answers that alone.
_ASK_AGAIN = 1.0
#: Seconds until the next try where a server cannot be probed, because its name has no address.
_TRY_AGAIN = 5.0
#: Seconds until the next try where a PING was answered and the reply is still owed. Each try in
#: vain doubles them, up to the second number. What fails so many seconds later is another matter.
_TRY_OWED, _TRY_OWED_MOST, _ANOTHER_MATTER = 1.0, 30.0, 60.0
#: Seconds for which a server that has answered a probe is believed to go on answering.
_FRESH = 1.0
_PAUSE = 0.005


class ServerSilent(DriverTimeoutError):  # noqa: N818 - it never leaves this SDK
    """The server is known not to answer; nothing was sent."""


class SilentServers:
    """Remembers which servers did not answer in time, until they do again."""

    def __init__(self) -> None:
        self._start()
        on_fork(self._start)

    def _start(self) -> None:
        self._probes: dict[Place, _Probe] = {}
        #: When a silent server was tried again on the strength of a PING alone, and after how long.
        self._tried: dict[Place, tuple[float, float]] = {}
        self._doubted: dict[Place, _Probe] = {}
        self._answered: dict[Place, float] = {}
        self._lock = OwnedLock()

    def note(self, place: Place, owing: socket.socket | None = None) -> None:
        """Note that the server at *place* did not answer in time.

        Args:
            place: Where it is.
            owing: The socket on which its reply is still to come; it is closed here.
        """
        if place in self._probes:
            if owing is not None:
                owing.close()
            return
        patience = 0.0 if owing is None else _TRY_OWED
        tried_at, before = self._tried.get(place, (0.0, 0.0))
        if tried_at and time.monotonic() - tried_at < _ANOTHER_MATTER:
            patience = min(max(2 * before, _TRY_OWED), _TRY_OWED_MOST)
        self._probes[place] = _Probe(place, owing, patience)

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
            if probe.has_paid:
                self._tried.pop(place, None)
            else:
                self._tried[place] = time.monotonic(), probe.patience
            del self._probes[place]
        return False

    def in_turn(self, places: Iterable[_PlaceT], seconds: float) -> Iterator[_PlaceT]:
        """Yield servers to try one after the other, of which any will do.

        As soon as some server is silent, only those follow that answer a probe, as they do: so all
        of them together cost one wait, however many are silent.

        Args:
            places: Where they are.
            seconds: How long to wait for one of them to answer the probe.
        """
        pending = dict.fromkeys(places)
        for one in list(self._probes):
            self.is_silent(one)
        while pending and not self._probes:
            one = next(iter(pending))
            del pending[one]
            yield one
        waited, found = 0.0, False
        try:
            while pending:
                awake = [one for one in pending if self._is_awake(one)]
                found = found or bool(awake)
                for one in awake:
                    del pending[one]
                    yield one
                if not awake:
                    if waited >= seconds:
                        return
                    time.sleep(_PAUSE)
                    waited += _PAUSE
        finally:
            if found:
                # The others' probes have done their work. Who does not wait looks at them later.
                for one in pending:
                    self._doubted.pop(one, None)

    def _is_awake(self, place: Place) -> bool:
        if place in self._probes:
            return not self.is_silent(place)
        now = time.monotonic()
        if now - self._answered.get(place, -_FRESH) < _FRESH:
            return True
        probe = self._doubted.get(place)
        if probe is None:
            probe = self._doubted[place] = _Probe(place)
        with self._lock:
            if not probe.has_answered():
                return False
        self._doubted.pop(place, None)
        self._answered[place] = now
        return True

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
        self._doubted.clear()


class _Probe:
    def __init__(
        self, place: Place, owing: socket.socket | None = None, patience: float = 0.0
    ) -> None:
        self._owing = owing
        if owing is not None:
            owing.settimeout(0)
        self.patience = patience
        #: Whether what has come is the reply that was owed, or the end of its connection.
        self.has_paid = False
        self._ponged: float | None = None
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
        for one in (self._socket, self._owing):
            if one is not None:
                one.close()

    def has_answered(self) -> bool:
        """Probe the server when that is due, and return whether it may be tried again."""
        if self._owing is not None and _has_come(self._owing):
            self.has_paid = True
            return True
        if self._ponged is None:
            if not self._has_ponged():
                return False
            self._ponged = time.monotonic()
        return time.monotonic() - self._ponged >= self.patience

    def _has_ponged(self) -> bool:
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


def _has_come(owing: socket.socket) -> bool:
    """Return whether anything has come, the connection's end included."""
    try:
        owing.recv(1)
    except (BlockingIOError, SSLWantReadError):
        return False
    except OSError:
        pass
    return True


def place_of(connection: AnyConnection) -> Place:
    """Return where a redis-py connection leads to."""
    path = getattr(connection, "path", None)
    return path if path is not None else Address(connection.host, connection.port)

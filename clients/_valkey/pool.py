"""The connections to one server: a reply never reaches anyone but its asker.

A connection is in the free list only while it owes nothing: it is taken out before a request is
sent, and put back after the complete reply. Whatever else happens in between, an exception that
a signal handler raises included, the connection is closed. An interrupt that comes before any
handler could run drops the last reference, and that closes it too; so a place in the pool is
counted by the connections that are alive, and cannot be lost. A caller may keep the interrupt's
traceback: no frame in it still holds a connection that counts.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import hiredis
from redis.exceptions import (
    BusyLoadingError,
    MasterDownError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from .._shared.locks import OwnedLock
from .errors import DRIVER_ERRORS, PoolExhausted, ReplyLost, ServerMoved

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .connections import AnyConnection
    from .settings import Limits

__all__ = ["Arguments", "ServerPool", "pack"]

#: One command's words, numbers as text: see ``pack``.
Arguments = tuple[str, ...]

# A waiter is woken by whoever frees a place; it looks by itself only in case that an interrupt
# swallowed the wake-up.
_LOOK_AGAIN = 0.05
# Replies that say that this server is not, or not yet, the one to talk to.
_WRONG_SERVER = (ReadOnlyError, MasterDownError, BusyLoadingError)
# Complete replies that the parser raises; those that follow them can still be read.
_RAISED_REPLIES = (BusyLoadingError, UnicodeDecodeError)


def pack(arguments: Arguments) -> bytes:
    """Return one command as the protocol has it.

    With hiredis and the connection's own socket and parser, and not through the driver's call
    path, which is slower and decides by itself what to close; tests/unit/test_redis_contract.py
    pins what this leans on.

    Text alone: a number takes hiredis through Python code, and a signal handler that raises there
    crashes the process.
    """
    # hiredis's own annotation says a tuple of one.
    packed: bytes = hiredis.pack_command(arguments)  # type: ignore[arg-type]
    return packed


class ServerPool:
    """At most ``max_connections`` connections to one server, last used first.

    Args:
        make: Makes an unconnected connection.
        limits: The pool's size, and how long a caller may wait for a place in it.
        generation: Returns a number that grows when connections made before are to be given up,
            because their credential is.
        drop_idle_on_failure: Close the idle connections, too, when one fails: the next call
            then asks anew where the server is.
    """

    def __init__(
        self,
        make: Callable[[], AnyConnection],
        limits: Limits,
        generation: Callable[[], int],
        *,
        drop_idle_on_failure: bool = False,
    ) -> None:
        self._make = make
        self._drop_idle_on_failure = drop_idle_on_failure
        self._limits = limits
        self._newest_generation = generation
        self._generation = generation()
        self._closed = False
        self._reset()

    def _reset(self) -> None:
        self._idle: list[AnyConnection] = []
        self._alive: dict[int, weakref.ref[AnyConnection]] = {}
        # Neither a Condition nor an Event: a signal handler's exception inside those could leave
        # them locked for ever.
        self._lock = OwnedLock()
        self._waiters: deque[threading.Lock] = deque()
        # Last: until here another thread of a forked child must not take what is its parent's.
        self._pid = os.getpid()

    def call(self, arguments: Arguments) -> Any:
        """Send one command, and return its reply.

        Raises:
            ReplyLost: It was sent, at least in part, and no complete reply came.
            redis.exceptions.ResponseError: The server refused it.
            redis.exceptions.RedisError: There is no connection; nothing was sent.
        """
        packed = pack(arguments)
        connection = self._take()
        try:
            connection._sock.sendall(packed)  # noqa: SLF001 - see pack
            reply = connection._parser.read_response()  # noqa: SLF001 - see pack
            # A complete reply, but one that says no.
            refused = isinstance(reply, ResponseError)
            is_wrong_server = refused and isinstance(reply, _WRONG_SERVER)
        except BaseException as error:
            self._abandon(connection, error)
            raise
        if is_wrong_server:
            self._leave(connection)
            raise reply
        # Here and not in a method, where an interrupt at its entry would come before.
        self._idle.append(connection)
        self._after_give_back()
        if refused:
            raise reply
        return reply

    def call_many(self, commands: Sequence[Arguments]) -> list[Any]:
        """Send commands in one write, and return their replies in order; errors stand among them.

        Raises:
            ReplyLost: They were sent, at least in part, and not every reply came.
            redis.exceptions.RedisError: There is no connection; nothing was sent.
        """
        packed = b"".join(map(pack, commands))
        connection = self._take()
        replies: list[Any] = []
        try:
            connection._sock.sendall(packed)  # noqa: SLF001 - see pack
            read = connection._parser.read_response  # noqa: SLF001 - see pack
            for _ in commands:
                try:
                    replies.append(read())
                except _RAISED_REPLIES as reply:
                    replies.append(reply.with_traceback(None))
            is_wrong_server = any(isinstance(reply, _WRONG_SERVER) for reply in replies)
        except BaseException as error:
            self._abandon(connection, error)
            raise
        if is_wrong_server:
            self._leave(connection)
        else:
            self._idle.append(connection)
            self._after_give_back()
        return replies

    def drop_idle(self) -> None:
        """Close every connection that is not in use."""
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:
                return
            self._discard(connection)

    def close(self) -> None:
        """Close the idle connections now, and the others as soon as their call ends."""
        self._closed = True
        if self._pid == os.getpid():
            self.drop_idle()

    def _take(self) -> AnyConnection:
        if self._pid != os.getpid():
            # A forked child: these sockets are its parent's. Dropping them here only closes
            # this process's copies.
            self._reset()
        generation = self._newest_generation()
        if generation > self._generation:
            self._generation = generation
            self.drop_idle()
        return self._take_idle() or self._open_or_wait()

    def _take_idle(self) -> AnyConnection | None:
        idle = self._idle
        while idle:
            try:
                connection = idle.pop()
            except IndexError:
                return None
            try:
                # Readable means closed by the server, or a reply that nobody asked for.
                is_clean = not connection._parser.can_read(0)  # noqa: SLF001 - see pack
                if is_clean and connection.credential_generation >= self._generation:
                    return connection
            except (RedisError, OSError):
                pass
            except BaseException:
                self._discard(connection)
                raise
            self._discard(connection)
        return None

    def _open_or_wait(self) -> AnyConnection:
        deadline = time.monotonic() + self._limits.connect_timeout
        while True:
            connection = self._reserve()
            if connection is not None:
                try:
                    connection.connect()
                except ServerMoved:
                    # The fresh credential came with another address: begin anew there.
                    self._discard(connection)
                    if time.monotonic() < deadline:
                        continue
                    raise
                except BaseException:
                    self._discard(connection)
                    raise
                return connection
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise PoolExhausted(
                    f"all {self._limits.max_connections} connections stayed in use for "
                    f"{self._limits.connect_timeout:.2f} s (connect_timeout): raise "
                    "max_connections, or share the server with fewer threads"
                )
            turn = threading.Lock()
            turn.acquire()
            self._waiters.append(turn)
            if not turn.acquire(timeout=min(remaining, _LOOK_AGAIN)):
                with suppress(ValueError):
                    self._waiters.remove(turn)
            connection = self._take_idle()
            if connection is not None:
                return connection

    def _reserve(self) -> AnyConnection | None:
        if self._is_full():
            return None
        # Outside the lock: making one may ask a slow source for fresh credentials.
        generation = self._newest_generation()
        connection = self._make()
        connection.credential_generation = generation
        try:
            with self._lock:
                if len(self._alive) >= self._limits.max_connections:
                    return None
                self._alive[id(connection)] = weakref.ref(connection)
        except BaseException:
            self._discard(connection)
            raise
        return connection

    def _is_full(self) -> bool:
        with self._lock:
            self._forget_dropped()
            return len(self._alive) >= self._limits.max_connections

    def _forget_dropped(self) -> None:
        for number, reference in list(self._alive.items()):
            if reference() is None:
                del self._alive[number]

    def _after_give_back(self) -> None:
        if self._waiters:
            self._wake()
        if self._closed:
            self.drop_idle()

    def _abandon(self, connection: AnyConnection, error: BaseException) -> None:
        self._discard(connection)
        if isinstance(error, DRIVER_ERRORS):
            if self._drop_idle_on_failure or isinstance(error, BusyLoadingError):
                self.drop_idle()
            raise ReplyLost(error) from error

    def _leave(self, connection: AnyConnection) -> None:
        self._discard(connection)
        self.drop_idle()

    def _discard(self, connection: AnyConnection) -> None:
        connection.disconnect()
        with self._lock:
            self._alive.pop(id(connection), None)
        self._wake()

    def _wake(self) -> None:
        try:
            self._waiters.popleft().release()
        except IndexError:
            return

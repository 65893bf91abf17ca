"""The connections to one server: a reply reaches no call but the one that it belongs to.

A connection is in the free list only while it owes nothing: it is taken out before a request is
sent, and put back after the complete reply. Whatever else happens in between, an exception that
a signal handler raises included, the connection is closed. An interrupt that comes before any
handler could run drops the last reference, and that closes it too; so a place in the pool is
counted by the connections that are alive, and cannot be lost. A caller may keep the interrupt's
traceback: no frame in it still holds a connection that counts.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from redis.exceptions import (
    BusyLoadingError,
    MasterDownError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from .._shared.fork import on_fork
from .._shared.interrupts import is_interrupt
from .._shared.locks import OwnedLock
from .._shared.telemetry import is_metered
from .errors import TIMEOUTS, PoolExhausted, ReplyLost, ServerMoved
from .protocol import (
    arrival_checks,
    last_refusal,
    pack,
    reply_reader,
    request_sender,
    send_part,
    take_socket,
)
from .reply_shapes import identity
from .silence import ServerSilent, place_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .._shared.telemetry import Telemetry
    from .protocol import Arguments
    from .settings import Limits
    from .silence import AnyConnection, Place, SilentServers

__all__ = ["Batch", "Request", "ServerPool"]

#: The pool's name in its metrics.
_NAME = "valkey"
# A waiter is woken by whoever frees a place; it looks by itself only in case that an interrupt
# swallowed the wake-up.
_LOOK_AGAIN = 0.05
# Seconds for which an impatient call takes a silent server for the one that it needs.
_SAME_SERVER = 0.2
# How often a call connects to another address that came with a fresh credential.
_MOST_MOVES = 5
# Replies that say that this server is not, or not yet, the one to talk to.
_WRONG_SERVER = (ReadOnlyError, MasterDownError, BusyLoadingError)
# Complete replies that the parser raises; those that follow them can still be read.
_RAISED_REPLIES = (BusyLoadingError, UnicodeDecodeError)


class Request(NamedTuple):
    """One of several requests that go out together.

    Args:
        words: What is sent.
        shape: Takes the reply, and refuses one that the command does not have.
        writes: Whether it can change anything.
    """

    words: Arguments
    shape: Callable[[Any], Any] = identity
    writes: bool = False


class ServerPool:
    """At most ``max_connections`` connections to one server, last used first.

    Args:
        make: Makes an unconnected connection; it takes ``impatient``.
        limits: The pool's size, and how long a caller may wait for a place in it.
        generation: Returns a number that grows when connections made before are to be given up,
            because their credential is.
        telemetry: Records how long connections are made, waited for and used.
        drop_idle_on_failure: Close the idle connections, too, when one fails: the next call
            then looks up again where the server is.
    """

    def __init__(
        self,
        make: Callable[..., AnyConnection],
        limits: Limits,
        generation: Callable[[], int],
        silent: SilentServers,
        *,
        telemetry: Telemetry,
        drop_idle_on_failure: bool = False,
    ) -> None:
        self._make = make
        self._telemetry = telemetry
        self._drop_idle_on_failure = drop_idle_on_failure
        self._limits = limits
        self._silent = silent
        self._newest_generation = generation
        self._generation = generation()
        self._closed = False
        # An increment is one step for other threads: none of them comes in between without a call.
        self._checkouts = self._connects = self._connect_failures = 0
        self._stale = self._retired = self._exhausted = 0
        #: Where the last connection was to lead, and when it was made.
        self.place: Place = ""
        self._made_at = 0.0
        self._reset()
        # The sockets are the parent's: dropping them here only closes the child's copies.
        on_fork(self._reset)

    def _reset(self) -> None:
        self._idle: list[AnyConnection] = []
        self._alive: dict[int, weakref.ref[AnyConnection]] = {}
        # Neither a Condition nor an Event: a signal handler's exception inside those could leave
        # them locked for ever.
        self._lock = OwnedLock()
        self._waiters: deque[threading.Lock] = deque()
        # Whether a caller has waited in vain, and no place has become free since.
        self._is_stuck = False

    def call(
        self,
        words: Arguments,
        shape: Callable[[Any], Any] = identity,
        *,
        writes: bool = False,
        impatient: bool = False,
    ) -> Any:
        """Send one command, and return what *shape* makes of its reply.

        Args:
            words: What is sent.
            shape: Takes the reply, and refuses one that the command does not have.
            writes: Whether it can change anything.
            impatient: Fail immediately where the server is known to be silent.

        Raises:
            ReplyLost: It was sent, at least in part, and no reply that can be used came.
            redis.exceptions.ResponseError: The server refused it.
            redis.exceptions.RedisError: There is no connection; nothing was sent.
        """
        packed = pack(words)
        connection = self.take(impatient=impatient)
        sent = is_wrong_server = False
        try:
            connection.send_request(packed)
            sent = True
            reply = connection.read_reply()
            refused = isinstance(reply, ResponseError)
            if refused:
                # A complete reply, but one that says no.
                is_wrong_server = isinstance(reply, _WRONG_SERVER)
            else:
                reply = shape(reply)
        except BaseException as error:
            # LOADING is a complete reply that the parser raises.
            maybe_applied = sent and writes and not isinstance(error, BusyLoadingError)
            self.abandon(connection, error, sent=sent, maybe_applied=maybe_applied)
            raise
        if is_wrong_server:
            self.leave(connection)
            raise reply
        # Here and not in a method, where an interrupt at its entry would come before.
        self._idle.append(connection)
        if connection.taken_at:
            self._record_use(connection)
        if self._waiters or self._closed or self._is_stuck:
            self._after_give_back()
        if refused:
            raise reply
        return reply

    def call_many(self, requests: Sequence[Request], *, impatient: bool = False) -> list[Any]:
        """Send requests in one write, and return their replies in order; errors stand among them.

        Args:
            requests: At least one.
            impatient: Fail at once where the server is known to be silent.

        Raises:
            ReplyLost: They were sent, at least in part, and not every reply came.
            redis.exceptions.RedisError: There is no connection; nothing was sent.
        """
        batch = Batch(self, requests)
        batch.send(impatient=impatient)
        return batch.receive()

    def stats(self) -> dict[str, int]:
        """Return the pool's numbers: see ``ValkeyClient.stats``."""
        with self._lock:
            self._forget_dropped()
            size = len(self._alive)
        idle = min(len(self._idle), size)
        return {
            "max_size": self._limits.max_connections,
            "size": size,
            "idle": idle,
            "in_use": size - idle,
            "waiting": len(self._waiters),
            "checkouts": self._checkouts,
            "connects": self._connects,
            "connect_failures": self._connect_failures,
            "stale": self._stale,
            "retired": self._retired,
            "exhausted": self._exhausted,
        }

    def drop_idle(self) -> None:
        """Close every connection that is not in use."""
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:
                return
            self.discard(connection)

    def close(self) -> None:
        """Close the idle connections now, and the others as soon as their call ends."""
        self._closed = True
        self.drop_idle()

    def take(self, *, impatient: bool = False) -> AnyConnection:
        """Return a connection that owes no reply; ``give_back``, ``leave`` or ``abandon`` it."""
        started = time.perf_counter() if self._telemetry.has_recorded else 0.0
        generation = self._newest_generation()
        if generation > self._generation:
            self._generation = generation
            self.drop_idle()
        self._checkouts += 1
        connection = self._take_idle()
        if connection is None:
            if impatient and time.monotonic() - self._made_at < _SAME_SERVER:
                self._silent.refuse(self.place)
            connection = self._open_or_wait(impatient=impatient)
            impatient = False  # that has looked at the server's silence already
        if impatient or started:
            self._inspect(connection, started, impatient=impatient)
        return connection

    def _take_idle(self) -> AnyConnection | None:
        idle = self._idle
        while idle:
            try:
                connection = idle.pop()
            except IndexError:
                return None
            try:
                # Readable means closed by the server, or a reply to no request.
                if connection.has_read() or connection.can_read(0):
                    self._stale += 1
                elif connection.credential_generation >= self._generation:
                    return connection
                else:
                    self._retired += 1
            except (RedisError, OSError):
                self._stale += 1
            except BaseException:
                self.discard(connection)
                raise
            self.discard(connection)
        return None

    def _open_or_wait(self, *, impatient: bool) -> AnyConnection:
        timeout = self._limits.pool_timeout
        deadline = time.monotonic() + timeout
        # Counted as well: a test's clock may stand still.
        waited, moves = 0.0, 0
        while True:
            connection = self._reserve(impatient=impatient)
            if connection is not None:
                try:
                    self._connect(connection, impatient=impatient)
                except ServerMoved:
                    # The fresh credential came with another address: begin again there.
                    moves += 1
                    if moves < _MOST_MOVES:
                        continue
                    raise
                return connection
            if impatient:
                # The holders of the connections may be waiting for a silent server.
                self._silent.refuse(self.place)
            remaining = min(deadline - time.monotonic(), timeout - waited)
            if remaining <= 0 or (impatient and self._is_stuck):
                self._exhausted += 1
                self._is_stuck = True
                raise PoolExhausted(
                    f"all {self._limits.max_connections} connections stayed in use for "
                    f"{timeout:g} s (pool_timeout): raise max_connections, or share the server "
                    "with fewer threads"
                )
            pause = min(remaining, _LOOK_AGAIN)
            turn = threading.Lock()
            turn.acquire()
            try:
                self._waiters.append(turn)
                if not turn.acquire(timeout=pause):
                    waited += pause
            finally:
                # Whoever released it has taken it out.
                with suppress(ValueError):
                    self._waiters.remove(turn)
            connection = self._take_idle()
            if connection is not None:
                return connection

    def _connect(self, connection: AnyConnection, *, impatient: bool) -> None:
        try:
            if impatient:
                self._silent.refuse(place_of(connection))
            self._connects += 1
            started = time.perf_counter()
            connection.connect()
            connection.has_read, connection.can_read = arrival_checks(connection)
            connection.read_reply = reply_reader(connection)
            connection.send_request = request_sender(connection)
            if is_metered():
                took = time.perf_counter() - started
                self._telemetry.measure("create_time", took, _NAME)
        except BaseException as error:
            if not isinstance(error, ServerMoved):
                self._connect_failures += 1
            self._note_silence(connection, error)
            self.discard(connection)
            raise

    def _inspect(self, connection: AnyConnection, started: float, *, impatient: bool) -> None:
        """Record the wait for *connection* since *started*, and refuse it where it is silent."""
        try:
            if impatient:
                self._silent.refuse(place_of(connection))
            if started:
                connection.taken_at = time.perf_counter()
                self._telemetry.measure("wait_time", connection.taken_at - started, _NAME)
        except ServerSilent:
            self.give_back(connection)
            raise
        except BaseException:
            self.discard(connection)
            raise

    def _note_silence(
        self, connection: AnyConnection, error: BaseException, *, owes: bool = False
    ) -> None:
        if isinstance(error, TIMEOUTS) and not isinstance(error, ServerSilent):
            owing = None
            if owes:
                owing = take_socket(connection)
            self._silent.note(place_of(connection), owing)

    def _reserve(self, *, impatient: bool) -> AnyConnection | None:
        if self._is_full():
            return None
        # Outside the lock: making one may call a slow source of credentials.
        generation = self._newest_generation()
        connection = self._make(impatient=impatient)
        connection.credential_generation = generation
        # When it was taken, for telemetry; 0.0 without a provider.
        connection.taken_at = 0.0
        self.place, self._made_at = place_of(connection), time.monotonic()
        try:
            with self._lock:
                if len(self._alive) >= self._limits.max_connections:
                    return None
                self._alive[id(connection)] = weakref.ref(connection)
        except BaseException:
            self.discard(connection)
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
        self._wake()
        if self._closed:
            self.drop_idle()

    def give_back(self, connection: AnyConnection) -> None:
        """Take a connection back that owes no reply."""
        self._idle.append(connection)
        if connection.taken_at:
            self._record_use(connection)
        self._after_give_back()

    def abandon(
        self, connection: AnyConnection, error: BaseException, *, sent: bool, maybe_applied: bool
    ) -> None:
        """Close a connection on which *error* was raised.

        Raises:
            ReplyLost: The error is a failure, and no interrupt.
        """
        if is_interrupt(error, "redis", "hiredis"):
            self.discard(connection)
            return
        # What a server says before it closes on a request that is too large.
        refusal = None if sent else last_refusal(connection)
        self._note_silence(connection, error, owes=sent)
        self.discard(connection)
        if self._drop_idle_on_failure or isinstance(error, BusyLoadingError):
            self.drop_idle()
        assert isinstance(error, Exception)  # noqa: S101 - see is_interrupt
        raise ReplyLost(refusal or error, sent=sent, maybe_applied=maybe_applied) from error

    def leave(self, connection: AnyConnection) -> None:
        """Close a connection to a server that is not the one to talk to, and the idle ones."""
        self.discard(connection)
        self.drop_idle()

    def _record_use(self, connection: AnyConnection) -> None:
        taken_at, connection.taken_at = connection.taken_at, 0.0
        self._telemetry.measure("use_time", time.perf_counter() - taken_at, _NAME)

    def discard(self, connection: AnyConnection) -> None:
        """Close a connection, and free its place."""
        connection.disconnect()
        if connection.taken_at:
            self._record_use(connection)
        with self._lock:
            self._alive.pop(id(connection), None)
        self._wake()

    def _wake(self) -> None:
        self._is_stuck = False
        try:
            self._waiters.popleft().release()
        except IndexError:
            return


class Batch:
    """Requests that go out in one write on one connection, and whose replies are read later.

    Args:
        pool: Gives the connection.
        requests: At least one.
    """

    def __init__(self, pool: ServerPool, requests: Sequence[Request]) -> None:
        self._pool = pool
        self._requests = requests
        self._connection: AnyConnection | None = None
        self._complete = 0

    @property
    def maybe_applied(self) -> bool:
        """Whether a request that changes something has left completely."""
        return any(one.writes for one in self._requests[: self._complete])

    def send(self, *, impatient: bool = False) -> None:
        """Send all requests.

        Args:
            impatient: Fail at once where the server is known to be silent.

        Raises:
            ReplyLost: They went out in part.
            redis.exceptions.RedisError: There is no connection; nothing was sent.
        """
        parts = [pack(one.words) for one in self._requests]
        whole = memoryview(b"".join(parts))
        connection = self._connection = self._pool.take(impatient=impatient)
        sent = 0
        try:
            while sent < len(whole):
                sent += send_part(connection, whole[sent:])
            self._complete = len(parts)
        except BaseException as error:
            while parts and (sent := sent - len(parts.pop(0))) >= 0:
                self._complete += 1
            self._abandon(error, sent=False)
            raise

    def receive(self) -> list[Any]:
        """Return the replies, in order; errors stand among them.

        Raises:
            ReplyLost: Not every reply came.
        """
        connection = self._connection
        assert connection is not None  # noqa: S101 - send() was called
        replies: list[Any] = []
        try:
            read = connection.read_reply
            for request in self._requests:
                try:
                    reply = read()
                except _RAISED_REPLIES as raised:
                    replies.append(raised.with_traceback(None))
                else:
                    is_error = isinstance(reply, ResponseError)
                    replies.append(reply if is_error else request.shape(reply))
            is_wrong_server = any(isinstance(reply, _WRONG_SERVER) for reply in replies)
        except BaseException as error:
            self._abandon(error, sent=True)
            raise
        self._connection = None
        if is_wrong_server:
            self._pool.leave(connection)
        else:
            self._pool.give_back(connection)
        return replies

    def drop(self) -> None:
        """Close the connection unless its replies were read: nobody reads them any more."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.discard(connection)

    def _abandon(self, error: BaseException, *, sent: bool) -> None:
        connection, self._connection = self._connection, None
        self._pool.abandon(connection, error, sent=sent, maybe_applied=self.maybe_applied)

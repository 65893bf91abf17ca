"""The way from a command to a server: one server, or the primary that sentinels name."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

from redis.exceptions import (
    ConnectionError as DriverConnectionError,
)
from redis.exceptions import (
    NoScriptError,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as DriverTimeoutError

from .errors import TIMEOUTS, UnexpectedReply
from .pool import Request, ServerPool
from .reply_shapes import pong, texts
from .url import Address

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .commands import Command
    from .connections import ConnectionFactory
    from .silence import AnyConnection, Place

__all__ = ["Link", "SentinelPrimary", "SingleServer", "call_on", "request"]


class Link(Protocol):
    """How the client reaches its server or servers."""

    def call(self, command: Command[Any], *, impatient: bool = False) -> Any:
        """Send one command, and return what its shape makes of the reply."""

    def call_many(self, commands: Sequence[Command[Any]]) -> list[Any]:
        """Send several, and return their raw replies in order; errors stand among them."""

    def groups(self, names: tuple[str, ...]) -> list[tuple[str, ...]]:
        """Return *names* in the groups that one command can take."""

    def ping(self) -> None:
        """Check that every server that takes writes answers."""

    def peer(self, command: Command[Any]) -> Place:
        """Return where *command* goes, as far as is known without a request; "" otherwise."""

    def stats(self) -> dict[str, int]:
        """Return the numbers of the pool, or of all pools together."""

    def close(self) -> None:
        """Close every connection."""


class SingleServer:
    """A link to one server.

    Args:
        factory: Makes the connections.
    """

    def __init__(self, factory: ConnectionFactory) -> None:
        self.pool = ServerPool(
            lambda **_: factory.make(),
            factory.limits,
            factory.source.generation,
            factory.silent,
            telemetry=factory.telemetry,
        )

    def call(self, command: Command[Any], *, impatient: bool = False) -> Any:
        if command.script is not None:
            return call_on(self.pool, command, impatient=impatient)
        return self.pool.call(
            command.words, command.shape, writes=command.writes, impatient=impatient
        )

    def call_many(self, commands: Sequence[Command[Any]]) -> list[Any]:
        return self.pool.call_many([request(command) for command in commands])

    def groups(self, names: tuple[str, ...]) -> list[tuple[str, ...]]:
        return [names]

    def ping(self) -> None:
        self.pool.call(("PING",), pong)

    def peer(self, command: Command[Any]) -> Place:
        del command
        return self.pool.place

    def stats(self) -> dict[str, int]:
        return self.pool.stats()

    def close(self) -> None:
        self.pool.close()


def call_on(pool: ServerPool, command: Command[Any], *, impatient: bool = False) -> Any:
    """Send *command* through *pool*; a script goes by its name while the server knows it."""
    shape, writes = command.shape, command.writes
    if command.script is None:
        return pool.call(command.words, shape, writes=writes, impatient=impatient)
    try:
        return pool.call(command.short_words, shape, writes=writes, impatient=impatient)
    except NoScriptError:
        # Nothing was executed: a restarted server has forgotten its scripts.
        return pool.call(command.full_words, shape, writes=writes, impatient=impatient)


def request(command: Command[Any]) -> Request:
    """Return *command* as one of several requests."""
    return Request(command.full_words, command.shape, command.writes)


class SentinelPrimary(SingleServer):
    """A link to whichever server is the primary now.

    Args:
        factory: Makes the connections.
    """

    def __init__(self, factory: ConnectionFactory) -> None:
        self._factory = factory
        # The sentinel that answered last comes first.
        self._preferred: Address | None = None
        #: The sentinels that a thread waits for: since when, and which thread.
        self._asked: dict[Address, tuple[float, int]] = {}
        # When one connection fails, the others may lead to the same dead or demoted server.
        self.pool = ServerPool(
            self._make,
            factory.limits,
            factory.source.generation,
            factory.silent,
            telemetry=factory.telemetry,
            drop_idle_on_failure=True,
        )

    def _make(self, *, impatient: bool) -> AnyConnection:
        return self._factory.make(self._primary(impatient=impatient), expect_primary=True)

    def _primary(self, *, impatient: bool) -> Address:
        target = self._factory.resolve()
        failures = []
        last_resort: Address | None = None
        unasked = dict.fromkeys(target.addresses)
        kind: type[RedisError] = DriverConnectionError
        for sentinel in self._in_turn(target.addresses, impatient=impatient):
            del unasked[sentinel]
            try:
                answer, is_down = self._ask(sentinel, target.service)
            except (RedisError, OSError, UnexpectedReply) as error:
                if isinstance(error, TIMEOUTS):
                    self._factory.silent.note(sentinel)
                    kind = DriverTimeoutError
                failures.append(f"{sentinel}: {error}")
                continue
            if answer is None:
                failures.append(f"{sentinel}: knows no service {target.service!r}")
            elif is_down:
                # This one may be behind: the others may have agreed on the next primary.
                last_resort = last_resort or answer
            else:
                self._preferred = sentinel
                return answer
        if last_resort is not None:
            return last_resort
        if unasked:
            kind = DriverTimeoutError
            failures += [f"{one}: does not answer" for one in unasked]
        raise kind(f"no sentinel names a primary ({'; '.join(failures)})")

    def _in_turn(self, sentinels: tuple[Address, ...], *, impatient: bool) -> Iterator[Address]:
        """Yield the sentinels that may answer, and last those that another thread waits for.

        Where such a one is frozen, one thread finds out for all.
        """
        patience = 0.0 if impatient else self._factory.limits.connect_timeout
        known = sorted(sentinels, key=lambda one: one != self._preferred)
        mine = (time.monotonic(), threading.get_ident())
        later: list[tuple[tuple[float, int], Address]] = []
        for one in self._factory.silent.in_turn(known, patience):
            claim = self._asked.setdefault(one, mine)
            if claim != mine:
                later.append((claim, one))
                continue
            try:
                yield one
            finally:
                # An interrupt before the try leaves it there until then: it is tried later.
                self._asked.pop(one, None)
        # The longer somebody has been waiting, the less an answer is to be expected.
        for _, one in sorted(later, reverse=True):
            if not self._factory.silent.is_silent(one):
                yield one

    def _ask(self, sentinel: Address, service: str) -> tuple[Address | None, bool]:
        """Return the primary that *sentinel* names, and whether it sees that one down."""
        connection = self._factory.make_for_sentinel(sentinel)
        try:
            connection.connect()
            connection.send_packed_command(
                connection.pack_commands(
                    [
                        ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service),
                        ("SENTINEL", "MASTER", service),
                    ]
                ),
                check_health=False,
            )
            reply = connection.read_response()
            try:
                words = connection.read_response()
            except ResponseError:
                # An unknown service, or a sentinel whose ACL rules deny it.
                words = []
        finally:
            connection.disconnect()
        if not reply:
            return None, False
        address = _address(reply)
        state = _pairs(words)
        # While a fail-over goes on, the state is still the old primary's.
        is_same = [state.get("ip"), state.get("port")] == reply
        is_down = not {"s_down", "o_down"}.isdisjoint(state.get("flags", "").split(","))
        return address, is_same and is_down


def _address(reply: Any) -> Address:
    host, port = texts(reply, 2)
    if not (port.isascii() and port.isdigit()):
        raise UnexpectedReply("an address", reply)
    return Address(host, int(port))


def _pairs(words: Any) -> dict[str, str]:
    found = texts(words, len(words) if isinstance(words, list) else 0)
    return dict(zip(found[::2], found[1::2], strict=False))

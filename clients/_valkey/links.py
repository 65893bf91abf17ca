"""The way from a command to a server: one server, or the primary that sentinels name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from redis.exceptions import NoScriptError

from .pool import ServerPool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .commands import Command
    from .connections import ConnectionFactory

__all__ = ["Link", "SingleServer"]


class Link(Protocol):
    """How the client reaches its server or servers."""

    def call(self, command: Command[Any]) -> Any:
        """Send one command, and return its raw reply."""

    def call_many(self, commands: Sequence[Command[Any]]) -> list[Any]:
        """Send several, and return their raw replies in order; errors stand among them."""

    def ping(self) -> None:
        """Ask every server that takes writes whether it is there."""

    def close(self) -> None:
        """Close every connection."""


class SingleServer:
    """A link to one server.

    Args:
        factory: Makes the connections.
    """

    def __init__(self, factory: ConnectionFactory) -> None:
        self.pool = ServerPool(factory.make, factory.limits, factory.source.generation)

    def call(self, command: Command[Any]) -> Any:
        return call_on(self.pool, command)

    def call_many(self, commands: Sequence[Command[Any]]) -> list[Any]:
        return self.pool.call_many([command.full_words for command in commands])

    def ping(self) -> None:
        self.pool.call(("PING",))

    def close(self) -> None:
        self.pool.close()


def call_on(pool: ServerPool, command: Command[Any]) -> Any:
    """Send *command* through *pool*; a script goes by its name while the server knows it."""
    if command.script is None:
        return pool.call(command.words)
    try:
        return pool.call(command.short_words)
    except NoScriptError:
        # Nothing was executed: a restarted server has forgotten its scripts.
        return pool.call(command.full_words)

"""Several commands in one round trip."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from ..errors import ValkeyError
    from .commands import Command, CommandSet

__all__ = ["Pipeline"]


class Pipeline:
    """Collects commands, and sends them together; other clients' commands may come in between.

    Each method queues what the client's method of that name does, checks its arguments at once,
    and returns the pipeline. Leaving a ``with`` block normally sends what is still queued; an
    exception discards it. Use one pipeline in one thread.

    Args:
        commands: Builds the commands.
        send: Sends them, and returns their replies with errors among them.
        explain: Turns a reply that is an error into ours.
    """

    def __init__(
        self,
        commands: CommandSet,
        send: Callable[[Sequence[Command[Any]]], list[Any]],
        explain: Callable[[Exception, Command[Any]], ValkeyError],
    ) -> None:
        self._commands = commands
        self._send = send
        self._explain = explain
        self._queue: list[Command[Any]] = []

    def __len__(self) -> int:
        return len(self._queue)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.execute()
        self._queue.clear()

    def get(self, key: str, expire_seconds: int | None = None) -> Self:
        """Queue ``get``."""
        return self._add(self._commands.get(key, expire_seconds))

    def get_json(self, key: str, expire_seconds: int | None = None) -> Self:
        """Queue ``get_json``."""
        return self._add(self._commands.get_json(key, expire_seconds))

    def set(
        self,
        key: str,
        value: str,
        expire_seconds: int | None = None,
        *,
        only_if_absent: bool = False,
    ) -> Self:
        """Queue ``set``."""
        return self._add(
            self._commands.set(key, value, expire_seconds, only_if_absent=only_if_absent)
        )

    def set_json(
        self,
        key: str,
        value: Any,
        expire_seconds: int | None = None,
        *,
        only_if_absent: bool = False,
    ) -> Self:
        """Queue ``set_json``."""
        return self._add(
            self._commands.set_json(key, value, expire_seconds, only_if_absent=only_if_absent)
        )

    def incr(self, key: str, amount: int = 1, expire_seconds: int | None = None) -> Self:
        """Queue ``incr``."""
        return self._add(self._commands.incr(key, amount, expire_seconds))

    def delete(self, key: str) -> Self:
        """Queue ``delete``."""
        return self._add(self._commands.delete(key))

    def expire(self, key: str, seconds: int) -> Self:
        """Queue ``expire``."""
        return self._add(self._commands.expire(key, seconds))

    def ttl(self, key: str) -> Self:
        """Queue ``ttl``."""
        return self._add(self._commands.ttl(key))

    def exists(self, key: str) -> Self:
        """Queue ``exists``."""
        return self._add(self._commands.exists(key))

    def execute(self) -> list[Any]:
        """Send everything that is queued, in one write.

        Returns:
            What each command's method on the client would have returned, in order.

        Raises:
            ValkeyError: A command failed: the error is that of the first such, and every other
                was executed all the same. Or the connection failed: see ``maybe_applied``.
        """
        queue, self._queue = self._queue, []
        if not queue:
            return []
        replies = self._send(queue)
        failures = [
            (command, reply)
            for command, reply in zip(queue, replies, strict=True)
            if isinstance(reply, Exception)
        ]
        if failures:
            first = self._explain(failures[0][1], failures[0][0])
            extent = (
                f"all {len(queue)} commands of the pipeline failed"
                if len(failures) == len(queue)
                else f"{len(failures)} of {len(queue)} commands of the pipeline failed, the "
                "others were executed"
            )
            raise type(first)(f"{first}; {extent}", code=first.code) from first.__cause__
        return [command.parse(reply) for command, reply in zip(queue, replies, strict=True)]

    def _add(self, command: Command[Any]) -> Self:
        self._queue.append(command)
        return self

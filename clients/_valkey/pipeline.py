"""Several commands in one round trip."""

from __future__ import annotations

from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self

from .commands import Command, CommandSet

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from .runner import Runner

__all__ = ["Pipeline"]

_P = ParamSpec("_P")


def _queued(
    build: Callable[Concatenate[CommandSet, _P], Command[Any]],
) -> Callable[Concatenate[Pipeline, _P], Pipeline]:
    """Return a method that queues what *build* makes, with the same arguments."""

    def queue(self: Pipeline, /, *args: _P.args, **kwargs: _P.kwargs) -> Pipeline:
        self._queue.append(build(self._runner.commands, *args, **kwargs))
        return self

    # The name and the signature; the documentation is the client's method's.
    update_wrapper(queue, build)
    queue.__doc__ = f"Queue ``{build.__name__}``."
    return queue


class Pipeline:
    """Collects commands, and sends them together; other clients' commands may come in between.

    Each method queues what the client's method of that name does, checks its arguments immediately,
    and returns the pipeline. Leaving a ``with`` block normally sends what is still queued; an
    exception discards it. Use one pipeline in one thread.

    Args:
        runner: Builds and sends the commands.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
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

    get = _queued(CommandSet.get)
    get_json = _queued(CommandSet.get_json)
    set = _queued(CommandSet.set)
    set_json = _queued(CommandSet.set_json)
    incr = _queued(CommandSet.incr)
    delete = _queued(CommandSet.delete)
    expire = _queued(CommandSet.expire)
    ttl = _queued(CommandSet.ttl)
    exists = _queued(CommandSet.exists)

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
        replies = self._runner.run_many(queue)
        failures = [
            (command, reply)
            for command, reply in zip(queue, replies, strict=True)
            if isinstance(reply, Exception)
        ]
        if failures:
            first = self._runner.explain(failures[0][1], failures[0][0])
            extent = (
                f"all {len(queue)} commands of the pipeline failed"
                if len(failures) == len(queue)
                else f"{len(failures)} of {len(queue)} commands of the pipeline failed, the "
                "others were executed"
            )
            raise type(first)(
                f"{first}; {extent}", code=first.code, reason=first.reason
            ) from first.__cause__
        return [command.convert(reply) for command, reply in zip(queue, replies, strict=True)]

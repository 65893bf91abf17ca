"""The rows of ``stream()``: fetched in batches, and dead with their block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from .cursor import GuardedCursor

__all__ = ["StreamedRows"]


class StreamedRows:
    """An iterator that raises on every use after its block.

    A generator would raise once, and then look like a result that has come to its end.

    Args:
        cursor: A cursor on the server.
        batch_size: Rows for each round trip.
        mapped: Makes a context in which psycopg's errors become ours.
    """

    def __init__(
        self,
        cursor: GuardedCursor,
        batch_size: int,
        mapped: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._cursor = cursor
        self._handle = cursor.connection
        self._batch_size = batch_size
        self._mapped = mapped
        self._batch: Iterator[dict[str, Any]] = iter(())

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> dict[str, Any]:
        if not self._handle._is_open:  # noqa: SLF001 - check_open() for each row costs a third
            self._handle.check_open()
        for row in self._batch:
            return row
        with self._mapped():
            # It looks whether the block is open, and whether this is the process that opened it.
            self._batch = iter(self._cursor.fetchmany(self._batch_size))
        for row in self._batch:
            return row
        raise StopIteration

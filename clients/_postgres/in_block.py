"""What ``execute()``, ``execute_many()`` and ``stream()`` do over the handle of a block."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

import psycopg

from ..errors import PostgresError
from .block import JoinedBlock
from .errors import statement_error
from .execute import BATCH_ROWS, twin_columns
from .stream import StreamedRows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager

    from psycopg.abc import Params, Query

    from .block import Block
    from .guarded import GuardedConnection
    from .pool import Pool

__all__ = ["InBlock"]


class InBlock:
    """Runs one method's statements over a block, with our errors instead of psycopg's.

    Args:
        method: The public method's name, for messages.
        pool: The pool of the block, for messages.
    """

    def __init__(self, method: str, pool: Pool) -> None:
        self._method = method
        self._pool = pool

    def run(self, outer: Block, query: Query, params: Params | None) -> list[dict[str, Any]]:
        """Run *query* as a savepoint of *outer*, and return its rows."""
        with self._mapped(), JoinedBlock(outer) as conn:
            with self._value_errors():
                cursor = conn.execute(query, params or None)
            if cursor.description is None:
                rows = []
            elif twins := twin_columns([column.name for column in cursor.description]):
                raise PostgresError(f"{self._method}() returned {twins}; it was undone")
            else:
                rows = cursor.fetchall()
            if cursor.nextset():
                raise PostgresError(
                    f"{self._method}() takes one statement, not several; they were undone"
                )
            return rows

    def run_many(self, outer: Block, query: Query, rows: Iterable[Params]) -> int:
        """Run *query* for each of *rows* as one savepoint of *outer*."""
        remaining = iter(rows)
        changed = 0
        with self._mapped(), JoinedBlock(outer) as conn:
            while batch := list(islice(remaining, BATCH_ROWS)):
                with self._value_errors():
                    changed += conn.cursor().executemany(query, batch).rowcount
        return changed

    @contextmanager
    def stream(
        self,
        block: AbstractContextManager[GuardedConnection],
        name: str,
        query: Query,
        params: Params | None,
        batch_size: int,
    ) -> Iterator[Iterator[dict[str, Any]]]:
        """Open a server-side cursor in *block*, and yield an iterator over its rows."""
        abandoned: GeneratorExit | None = None
        with block as conn:
            cursor = conn.cursor(name)
            with self._mapped(), self._value_errors():
                cursor.execute(query, params or None)
            try:
                yield StreamedRows(cursor, batch_size, self._mapped)
            except GeneratorExit as left:
                # The reader, a generator itself, wants no more rows: that is no failure, and what
                # execute() wrote as a part of this block must not be lost for it.
                abandoned = left
        if abandoned is not None:
            raise abandoned

    @contextmanager
    def _value_errors(self) -> Iterator[None]:
        try:
            yield
        except (TypeError, ValueError) as error:
            # A text that UTF-8 cannot say, or parameters that are no sequence.
            raise PostgresError(f"{self._method}() failed: {error}") from error

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise statement_error(error, f"{self._method}()", self._pool.target) from error

# ruff: noqa: SLF001 - one guard for the handle and all that comes from it
"""The cursors and copies of a block: psycopg's, as long as the block is open."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from ..errors import PostgresError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from psycopg.abc import Buffer, Params, Query

    from .guarded import GuardedConnection

__all__ = ["GuardedCopy", "GuardedCursor"]

_END = object()


class GuardedCursor:
    """A psycopg cursor that works only while its block is open."""

    __slots__ = ("_fetch_sends", "_handle", "_raw")

    def __init__(self, handle: GuardedConnection, raw: Any) -> None:
        self._handle = handle
        self._raw = raw
        # Only a server-side cursor talks to the server when it fetches.
        self._fetch_sends = isinstance(raw, psycopg.ServerCursor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        with self._handle._guarded(sends=self._fetch_sends):
            # Not fetchone(): its None can be a row, too, as a row factory makes it.
            row = next(self._raw, _END)
        if row is _END:
            raise StopIteration
        return row

    @property
    def connection(self) -> GuardedConnection:
        """The block's handle; never psycopg's connection."""
        return self._handle

    @property
    def description(self) -> Any:
        """The columns of the result; None for a statement without rows."""
        return self._raw.description

    @property
    def pgresult(self) -> Any:
        """The result as libpq has it, for psycopg's row factories."""
        return self._raw.pgresult

    @property
    def _encoding(self) -> str:
        return str(self._raw._encoding)

    @property
    def rowcount(self) -> int:
        """How many rows the statement returned or changed."""
        return int(self._raw.rowcount)

    @property
    def statusmessage(self) -> str | None:
        """The command tag, such as ``INSERT 0 1``."""
        tag: str | None = self._raw.statusmessage
        return tag

    def execute(self, query: Query, params: Params | None = None) -> Self:
        """Run a statement.

        Raises:
            psycopg.Error: It failed.
            PostgresError: The block has ended, or its context is lost (RlsContextError).
        """
        with self._handle._guarded():
            self._raw.execute(_whole(query), params)
        return self

    def executemany(
        self, query: Query, params_seq: Iterable[Params], *, returning: bool = False
    ) -> Self:
        """Run a statement once for each row of parameters; raises as ``execute`` does."""
        with self._handle._guarded():
            self._raw.executemany(_whole(query), params_seq, returning=returning)
        return self

    def fetchone(self) -> Any:
        """Return the next row, or None when there is no further one."""
        with self._handle._guarded(sends=self._fetch_sends):
            return self._raw.fetchone()

    def fetchmany(self, size: int = 0) -> list[Any]:
        """Return up to *size* further rows."""
        with self._handle._guarded(sends=self._fetch_sends):
            return list(self._raw.fetchmany(size))

    def fetchall(self) -> list[Any]:
        """Return all further rows."""
        with self._handle._guarded(sends=self._fetch_sends):
            return list(self._raw.fetchall())

    def nextset(self) -> bool:
        """Go on to the next result of several statements; return False when there is none."""
        with self._handle._guarded(sends=False):
            return bool(self._raw.nextset())

    def scroll(self, value: int, mode: str = "relative") -> None:
        """Move within the rows."""
        with self._handle._guarded(sends=self._fetch_sends):
            self._raw.scroll(value, mode)

    def stream(self, query: Query, params: Params | None = None) -> Generator[Any, None, None]:
        """Yield the rows one by one as the server sends them."""
        rows = self._raw.stream(_whole(query), params)
        with self._handle._guarded() as state:
            state.closables.append(rows)
        try:
            while True:
                with self._handle._guarded(sends=False):
                    try:
                        row = next(rows)
                    except StopIteration:
                        return
                yield row
        finally:
            with state.lock:
                if rows in state.closables:
                    state.closables.remove(rows)
                    self._cancel(rows)

    def _cancel(self, rows: Any) -> None:
        state = self._handle._state
        with suppress(psycopg.Error):
            rows.close()
        if state.session.transaction_status == TransactionStatus.INERROR:
            state.note(psycopg.errors.QueryCanceled("a stream() was left before its last row"))

    @contextmanager
    def copy(self, statement: Query, params: Params | None = None) -> Iterator[GuardedCopy]:
        """Open a COPY, as psycopg's cursor does.

        COPY FROM is PostgreSQL's to refuse on tables with row-level security.
        """
        whole = _whole(statement)
        with self._handle._guarded(), self._raw.copy(whole, params) as raw:
            copy = GuardedCopy(self._handle, raw)
            try:
                yield copy
            finally:
                copy._is_open = False

    def close(self) -> None:
        """Close the cursor; it may outlive its block for that."""
        with self._handle._state.lock:
            if not self._handle.closed:
                self._raw.close()


def _whole(query: Query) -> Query:
    """Refuse a query that libpq would cut at a NUL character: perhaps before its WHERE."""
    text = query.as_bytes() if isinstance(query, sql.Composable) else query
    if (isinstance(text, str) and "\0" in text) or (isinstance(text, bytes) and b"\0" in text):
        raise psycopg.ProgrammingError("the query contains a NUL character")
    return query


class GuardedCopy:
    """A COPY of a block; dead with its ``with`` block, and never psycopg's own object.

    A kept one would write into whatever COPY the session's next borrower runs.
    """

    __slots__ = ("_handle", "_is_open", "_raw")

    def __init__(self, handle: GuardedConnection, raw: psycopg.Copy) -> None:
        self._handle = handle
        self._raw = raw
        self._is_open = True

    def __iter__(self) -> Iterator[Buffer]:
        while data := self.read():
            yield data

    def read(self) -> Buffer:
        """Return the next piece of a COPY TO; empty at the end."""
        return self._checked().read()

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a COPY TO."""
        while (row := self.read_row()) is not None:
            yield row

    def read_row(self) -> tuple[Any, ...] | None:
        """Return the next row of a COPY TO; None at the end."""
        return self._checked().read_row()

    def write(self, data: Buffer | str) -> None:
        """Send a piece of a COPY FROM."""
        self._checked().write(data)

    def write_row(self, row: Sequence[Any]) -> None:
        """Send a row of a COPY FROM."""
        self._checked().write_row(row)

    def set_types(self, types: Sequence[int | str]) -> None:
        """Name the types of the columns, which a binary COPY needs."""
        self._checked().set_types(types)

    def _checked(self) -> psycopg.Copy:
        self._handle.check_open()
        if not self._is_open:
            raise PostgresError("this COPY has ended: open another with cursor.copy()")
        return self._raw

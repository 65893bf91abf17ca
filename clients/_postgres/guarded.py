"""What a ``connection()`` block yields: a connection that guards its transaction and dies with it.

The handle and all that comes from it (cursors, savepoints, streams, copies) check before each use
that the block is still open and that its transaction is still the one that has the context.
"""

from __future__ import annotations

import sys
import weakref
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar
from weakref import WeakSet

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row, tuple_row

from .._shared.fork import on_fork
from .._shared.interrupts import interrupt_behind
from .._shared.validation import is_encodable
from ..errors import ClientError, PostgresError
from .errors import describe
from .rows import unique_dict_row
from .statements import MAX_PARAMETERS, CallersRows, checked_params, refuse_unsendable, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from types import TracebackType

    from psycopg.abc import Buffer, Params, Query

    from .block_state import BlockState, BlockUse
    from .recording import BlockRecorder

__all__ = [
    "GuardedConnection",
    "GuardedCopy",
    "GuardedCursor",
    "GuardedTransaction",
    "StreamedRows",
    "check_sendable",
]


T = TypeVar("T")

_NOT_RECORDED = nullcontext()


class _PartOfBlock:
    """What belongs to one block, and to nobody else."""

    __slots__ = ("_use",)

    def __init__(self, use: BlockUse) -> None:
        self._use = use

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self._use.state.what} is its session's, and cannot be pickled or copied")


class GuardedConnection(_PartOfBlock):
    """The connection of one block: ``execute``, ``cursor``, ``transaction``, with dict rows.

    It commits when the block ends normally and rolls back when it does not. After the block,
    every use of it or of its cursors raises PostgresError.
    """

    __slots__ = ("recorder", "row_factory")

    def __init__(self, use: BlockUse) -> None:
        super().__init__(use)
        #: Records the block's statements for telemetry.
        self.recorder: BlockRecorder | None = None
        #: Makes the rows of cursors that are given none; it ends with the block.
        self.row_factory: Any = dict_row

    def __repr__(self) -> str:
        ended = "" if self._use.is_open else ", ended"
        return f"<{type(self).__name__} of {self._use.state.what}{ended}>"

    def execute(
        self, query: Query, params: Params | None = None, *, binary: bool = False
    ) -> GuardedCursor:
        """Run a statement, and return the cursor that has its rows.

        Args:
            query: SQL with ``%s`` or ``%(name)s`` placeholders; without *params*, ``%`` is literal.
            params: Values for the placeholders.
            binary: Whether to ask the server for binary results.

        Raises:
            psycopg.Error: The statement failed.
            PostgresError: The block has ended, or its context is lost (RlsContextError).
        """
        return self.cursor(binary=binary).execute(query, params)

    def cursor(
        self,
        name: str | None = None,
        *,
        binary: bool = False,
        row_factory: Any = None,
        scrollable: bool | None = None,
    ) -> GuardedCursor:
        """Return a cursor; with a *name*, one that keeps its rows on the server.

        Args:
            name: The server-side cursor's name.
            binary: Whether to ask the server for binary results.
            row_factory: Makes the rows; dicts when None.
            scrollable: Whether a server-side cursor can go backwards.

        Raises:
            PostgresError: The block has ended, its context is lost (RlsContextError), or the name
                is none.
        """
        self._use.check_open()
        state = self._use.state
        conn = state.session.conn
        raw: Any
        if name is None:
            raw = self._use.drive("cursor()", partial(conn.cursor, binary=binary))
        else:
            _check_name("cursor()", name)
            make = partial(conn.cursor, name, binary=binary, scrollable=scrollable)
            raw = self._use.drive("cursor()", make)
            state.closables.append(raw)
        cursor = self.adopt(raw)
        factory = row_factory or self.row_factory
        if factory is tuple_row:
            raw.row_factory = tuple_row
        elif factory is dict_row:
            raw.row_factory = unique_dict_row
        else:
            raw.row_factory = cursor.callers_rows = _CallersRowFactory(factory, cursor)
        return cursor

    def adopt(self, raw: Any) -> GuardedCursor:
        """Return a guarded cursor over one of psycopg's on this block's connection.

        Args:
            raw: psycopg's cursor.
        """
        return GuardedCursor(self, self._use, raw)

    def transaction(
        self, savepoint_name: str | None = None, *, force_rollback: bool = False
    ) -> GuardedTransaction:
        """Return a context manager over a savepoint: an exception undoes it alone.

        Args:
            savepoint_name: Its name; psycopg makes one up when None.
            force_rollback: Whether to undo it at the end in any case.

        Raises:
            PostgresError: The block has ended, its context is lost (RlsContextError), or the name
                is none.
        """
        self._use.check_open()
        if savepoint_name is not None:
            _check_name("transaction()", savepoint_name)
        # Not conn.transaction(): that is a generator, and one that is dropped in mid-block would
        # send its ROLLBACK TO to whoever has the session by then.
        conn = self._use.state.session.conn
        return GuardedTransaction(
            self._use, psycopg.Transaction(conn, savepoint_name, force_rollback)
        )

    @property
    def closed(self) -> bool:
        """Whether the block has ended or the connection is gone."""
        return not self._use.is_open or self._use.state.session.conn.closed

    @property
    def context_was_lost(self) -> bool:
        """Whether a COMMIT or ROLLBACK in SQL has ended the transaction: some may be stored."""
        return self._use.state.context_was_lost

    def commit(self) -> NoReturn:
        """Refuse: the block commits when it ends."""
        raise self._forbidden("commit")

    def rollback(self) -> NoReturn:
        """Refuse: an exception that leaves the block rolls back."""
        raise self._forbidden("rollback")

    def close(self) -> NoReturn:
        """Refuse: the block gives the connection back when it ends."""
        raise self._forbidden("close")

    def _forbidden(self, method: str) -> PostgresError:
        return PostgresError(
            f"{method}() is not for {self._use.state.what}: leave it to commit, raise out of "
            "it to roll back, and use conn.transaction() for a part that may be undone alone"
        )

    def check_open(self) -> None:
        """Refuse to go on when the block has ended.

        Raises:
            PostgresError: It has.
        """
        self._use.check_open()


def _check_name(method: str, name: object) -> None:
    """Refuse what would fail again at the end of the block, which sends the name once more."""
    if not isinstance(name, str) or not name or "\0" in name or not is_encodable(name):
        raise PostgresError(
            f"{method} was given a name that is none: pass a text of one character or more, "
            "without a NUL character and lone surrogates"
        )


class GuardedTransaction(_PartOfBlock):
    """A savepoint of a block; psycopg's ``Rollback`` works with it."""

    __slots__ = ("_raw",)

    def __init__(self, use: BlockUse, raw: psycopg.Transaction) -> None:
        super().__init__(use)
        self._raw = raw

    def __enter__(self) -> Self:
        with self._use.guard():
            self._use.drive("transaction()", self._raw.__enter__)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        state = self._use.state
        if exc is None:
            with self._use.guard():
                if state.session.transaction_status == TransactionStatus.INERROR:
                    self._undo_and_raise(state)
                return self._leave(None, None, None)
        with state.lock:
            if not self._use.is_open:
                # The session may be another user's by now: nothing of ours goes there.
                return False
            if isinstance(exc, psycopg.Rollback) and exc.transaction is self:  # type: ignore[comparison-overlap]  # we gave the caller ourselves
                exc_type, exc = psycopg.Rollback, psycopg.Rollback(self._raw)
            done = self._leave(exc_type, exc, traceback)
            if state.session.transaction_status != TransactionStatus.INERROR:
                state.swallowed = None
            return done

    def _leave(self, *exc_info: Any) -> bool:
        return bool(self._use.drive("the end of transaction()", self._raw.__exit__, *exc_info))

    def _undo_and_raise(self, state: BlockState) -> NoReturn:
        aborted = state.aborted_error()
        self._leave(type(aborted), aborted, None)
        state.swallowed = None
        raise aborted


_END = object()


class _CallersRowFactory:
    """A row factory of the caller's, whose own failures come out unchanged.

    Args:
        factory: It gets the guarded cursor, which it may keep: psycopg's leads to the connection.
        cursor: The guarded cursor.
    """

    def __init__(self, factory: Callable[[Any], Callable[..., Any]], cursor: GuardedCursor) -> None:
        self._factory = factory
        # Weak: the cursor has this object.
        self._cursor = weakref.ref(cursor)
        #: What the factory, or what it made, has raised.
        self.failure: Exception | None = None

    def __call__(self, _raw: object) -> Callable[[Sequence[Any]], Any]:
        make: Callable[[Sequence[Any]], Any] = self._noted(self._factory, self._cursor())
        return lambda values: self._noted(make, values)

    def _noted(self, call: Callable[[Any], Any], argument: object) -> Any:
        try:
            return call(argument)
        except Exception as error:
            self.failure = error
            raise


class GuardedCursor(_PartOfBlock):
    """A psycopg cursor that works only while its block is open."""

    __slots__ = ("__weakref__", "_fetch_sends", "_handle", "_raw", "callers_rows")

    def __init__(self, handle: GuardedConnection, use: BlockUse, raw: Any) -> None:
        super().__init__(use)
        self._handle = handle
        self._raw = raw
        # Only a server-side cursor talks to the server when it fetches.
        self._fetch_sends = isinstance(raw, psycopg.ServerCursor)
        #: The caller's row factory, where one makes the rows.
        self.callers_rows: _CallersRowFactory | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        # Not fetchone(): its None can be a row, too, as a row factory makes it.
        row = self._fetch(next, self._raw, _END)
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
        return str(self._raw.connection.info.encoding)

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
            PostgresError: The block has ended, its context is lost (RlsContextError), or the
                statement cannot be sent as it is; then nothing was sent.
        """
        with self._recorded(query, params):
            self._use.call(self._execute, query, params)
        return self

    def _execute(self, query: Query, params: Params | None) -> None:
        check_sendable(query, params, "execute()")
        try:
            self._raw.execute(query, params)
        except Exception as error:
            if getattr(self._raw, "has_committed", False):
                self._use.state.context_was_lost = True
            self._raise_unless_callers(error, "execute() cannot send these parameters")
            raise

    def executemany(
        self, query: Query, params_seq: Iterable[Params], *, returning: bool = False
    ) -> Self:
        """Run a statement once for each row of parameters; raises as ``execute`` does."""
        rows, handled = CallersRows(params_seq), sys.exception()
        with self._recorded(query, rows), self._use.guard():
            check_sendable(query, (), "executemany()")
            try:
                self._raw.executemany(query, _checked_rows(rows), returning=returning)
            except Exception as error:
                # psycopg leaves its pipeline in any case, and that fails in the middle of one.
                if (interrupt := interrupt_behind(error, handled, "psycopg")) is not None:
                    raise interrupt from interrupt.__cause__
                if error is not rows.failure:
                    self._raise_unless_callers(error, "executemany() cannot send these parameters")
                raise
        return self

    def fetchone(self) -> Any:
        """Return the next row, or None when there is no further one."""
        return self._fetch(self._raw.fetchone)

    def fetchmany(self, size: int = 0) -> list[Any]:
        """Return up to *size* further rows."""
        return list(self._fetch(self._raw.fetchmany, size))

    def fetchall(self) -> list[Any]:
        """Return all further rows."""
        return list(self._fetch(self._raw.fetchall))

    def nextset(self) -> bool:
        """Go on to the next result of several statements; return False when there is none."""
        return bool(self._use.call(self._raw.nextset, sends=False))

    def scroll(self, value: int, mode: str = "relative") -> None:
        """Move within the rows; beyond them it raises Python's IndexError, as the DB-API has it.

        Raises:
            PostgresError: An argument is unusable.
        """
        with self._use.guard(sends=self._fetch_sends):
            try:
                self._raw.scroll(value, mode)
            except IndexError:
                raise
            except Exception as error:
                _raise_unless_psycopgs(error, "scroll() cannot move")
                raise

    def stream(self, query: Query, params: Params | None = None) -> Generator[Any, None, None]:
        """Yield the rows one by one as the server sends them.

        Who stops before the last row cancels the statement: what it has written is undone, and
        the block goes on.
        """
        state = self._use.state
        with self._recorded(query, params):
            with self._use.guard():
                check_sendable(query, params, "stream()")
                rows = _StatementRows(self._use, self._raw.stream(query, params))
            yield from self._rows_of_stream(state, rows)

    def _rows_of_stream(
        self, state: BlockState, rows: _StatementRows
    ) -> Generator[Any, None, None]:
        try:
            while True:
                with self._use.guard(sends=False):
                    try:
                        row = rows.next()
                    except Exception as error:
                        self._raise_unless_callers(error, "stream() cannot read a row")
                        raise
                if row is _END:
                    return
                yield row
        finally:
            with state.lock:
                rows.close()

    @contextmanager
    def copy(self, statement: Query, params: Params | None = None) -> Iterator[GuardedCopy]:
        """Open a COPY, as psycopg's cursor does.

        COPY FROM is PostgreSQL's to refuse on tables with row-level security.
        """
        check_sendable(statement, params, "copy()")
        recorded = self._recorded(statement, params)
        with recorded, self._use.guard(), ExitStack() as opened:
            running = self._raw.copy(statement, params)
            _unfinished.add(running)
            try:
                raw = opened.enter_context(running)
            except Exception as error:
                _raise_unless_psycopgs(error, "copy() cannot send this statement")
                raise
            use = self._use.part("this COPY has ended: open another with cursor.copy()")
            try:
                yield GuardedCopy(use, raw)
            finally:
                use.end()
                if self._use.state.is_inherited:
                    opened.pop_all()  # the end of the COPY is the parent's

    def close(self) -> None:
        """Close the cursor; it may outlive its block for that."""
        with self._use.state.lock:
            if not self._handle.closed:
                self._raw.close()

    def _recorded(self, query: Query, params: object) -> AbstractContextManager[object]:
        recorder = self._handle.recorder
        return _NOT_RECORDED if recorder is None else recorder.statement(query, params)

    def _fetch(self, fetch: Callable[..., T], *args: Any) -> T:
        found: T = self._use.call(self._fetched, fetch, *args, sends=self._fetch_sends)
        return found

    def _fetched(self, fetch: Callable[..., T], *args: Any) -> T:
        try:
            return fetch(*args)
        except Exception as error:
            self._raise_unless_callers(error, "a row cannot be read")
            raise

    def _raise_unless_callers(self, error: Exception, what: str) -> None:
        """Raise PostgresError for what is neither psycopg's own error nor a row factory's."""
        if self.callers_rows is None or error is not self.callers_rows.failure:
            _raise_unless_psycopgs(error, what)


def _raise_unless_psycopgs(error: Exception, what: str) -> None:
    if not isinstance(error, psycopg.Error | ClientError):
        raise PostgresError(f"{what}: {describe(error)}") from error


def _checked_rows(rows: CallersRows) -> Iterator[Params]:
    for row in rows:
        checked_params(row, "executemany()")
        if len(row) > MAX_PARAMETERS:
            raise PostgresError(
                f"a row of executemany() has {len(row)} parameters, and the protocol takes "
                f"{MAX_PARAMETERS}"
            )
        yield row


class _StatementRows:
    """The rows of one streamed statement, in a savepoint of its own.

    Whether the request to cancel a statement arrives before it ends is chance: without the
    savepoint, the transaction would be aborted by it now and then.
    """

    _SAVEPOINT = b"failfast_stream"

    def __init__(self, use: BlockUse, rows: Generator[Any, None, None]) -> None:
        self._use = use
        self._state = state = use.state
        self._rows = rows
        self._run(b"SAVEPOINT " + self._SAVEPOINT)
        state.closables.append(self)
        _unfinished.add(self)

    def next(self) -> Any:
        """Return the next row, or _END."""
        try:
            row = next(self._rows, _END)
        except psycopg.Error:
            # The statement failed, and the transaction with it.
            self._forget()
            raise
        if row is _END:
            self._forget()
            self._run(b"RELEASE SAVEPOINT " + self._SAVEPOINT)
        return row

    def close(self) -> None:
        """Cancel the statement, unless it has come to its end, and undo it."""
        if self not in self._state.closables or self._state.is_inherited:
            return
        self._forget()
        with suppress(psycopg.Error):
            self._use.drive("stream()", self._rows.close)
        session = self._state.session
        if session.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
            self._run(b"ROLLBACK TO SAVEPOINT " + self._SAVEPOINT)
            self._run(b"RELEASE SAVEPOINT " + self._SAVEPOINT)

    def _forget(self) -> None:
        if self in self._state.closables:
            self._state.closables.remove(self)

    def _run(self, statement: bytes) -> None:
        self._use.drive("stream()", self._state.session.conn.execute, statement)


# Streams and copies of this process. When one of them is dropped, psycopg cancels its statement by
# the server's process id, which in a forked child is the parent's.
_unfinished: WeakSet[object] = WeakSet()
_inherited: list[object] = []


def _keep_what_is_the_parents() -> None:
    _inherited.extend(_unfinished)


on_fork(_keep_what_is_the_parents)


def check_sendable(query: Query, params: Params | None, action: str) -> None:
    """Refuse a statement that would not reach the server as its caller wrote it.

    Args:
        query: SQL with placeholders.
        params: Values for them.
        action: What was to send it.

    Raises:
        PostgresError: Its parameters cannot be sent.
        psycopg.ProgrammingError: It contains a NUL character.
    """
    checked_params(params, action)
    refuse_unsendable(query, params, action)
    # libpq would cut the query there: perhaps before its WHERE.
    if "\0" in (query if type(query) is str else text_of(query)):
        raise psycopg.ProgrammingError("the query contains a NUL character")


def _unconvertible(method: str, error: Exception) -> PostgresError:
    return PostgresError(f"{method}() cannot convert a value: {describe(error)}")


class GuardedCopy(_PartOfBlock):
    """A COPY of a block; dead with its ``with`` block, and never psycopg's own object.

    A kept one would write into whatever COPY the session's next borrower runs.
    """

    __slots__ = ("_raw",)

    def __init__(self, use: BlockUse, raw: psycopg.Copy) -> None:
        super().__init__(use)
        self._raw = raw

    def __iter__(self) -> Iterator[Buffer]:
        while data := self.read():
            yield data

    def read(self) -> Buffer:
        """Return the next piece of a COPY TO; empty at the end."""
        return self._do("read", self._open_copy().read)

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a COPY TO."""
        while (row := self.read_row()) is not None:
            yield row

    def read_row(self) -> tuple[Any, ...] | None:
        """Return the next row of a COPY TO; None at the end."""
        return self._do("read_row", self._open_copy().read_row)

    def write(self, data: Buffer | str) -> None:
        """Send a piece of a COPY FROM."""
        self._do("write", self._open_copy().write, data)

    def write_row(self, row: Sequence[Any]) -> None:
        """Send a row of a COPY FROM."""
        self._do("write_row", self._open_copy().write_row, row)

    def write_rows(self, rows: Iterable[Sequence[Any]]) -> None:
        """Send all *rows* of a COPY FROM, with less work for each than ``write_row``."""
        check_open, write_row = self._use.check_open, self._raw.write_row
        for row in rows:
            # What gives the rows may have ended the block, or forked.
            check_open()
            try:
                write_row(row)
            except psycopg.Error:
                raise
            except Exception as error:
                raise _unconvertible("write_row", error) from error

    def set_types(self, types: Sequence[int | str]) -> None:
        """Name the types of the columns, which a binary COPY needs."""
        copy = self._open_copy()
        try:
            copy.set_types(types)
        except Exception as error:
            _raise_unless_psycopgs(error, "set_types() does not know a type")
            raise

    @staticmethod
    def _do(method: str, work: Callable[..., T], *args: Any) -> T:
        try:
            return work(*args)
        except psycopg.Error:
            raise
        except Exception as error:
            raise _unconvertible(method, error) from error

    def _open_copy(self) -> psycopg.Copy:
        self._use.check_open()
        return self._raw


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
        self._check_open = cursor.connection.check_open
        self._batch_size = batch_size
        self._mapped = mapped
        self._batch: Iterator[dict[str, Any]] = iter(())

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> dict[str, Any]:
        self._check_open()
        for row in self._batch:
            return row
        with self._mapped():
            self._batch = iter(self._cursor.fetchmany(self._batch_size))
        for row in self._batch:
            return row
        raise StopIteration

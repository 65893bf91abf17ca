"""``execute()`` in one round trip: context, statement and commit in one batch.

Leans on two semi-public parts of psycopg, pinned by ``tests/unit/test_psycopg_contract.py``:
``PostgresQuery`` turns placeholders and Python values into what libpq takes, and ``Transformer``
turns results into Python values.
"""

from __future__ import annotations

from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, NoReturn

import psycopg
from psycopg._queries import PostgresQuery
from psycopg.adapt import Transformer
from psycopg.pq import ExecStatus
from psycopg.rows import tuple_row

from ..errors import ClientError, PostgresError
from .batch_head import BatchHead, undo
from .block import JoinedBlock
from .errors import (
    describe,
    is_connection_loss,
    lost_error,
    statement_error,
    unexpected_error,
    was_terminated_by_server,
)
from .guarded import StreamedRows
from .identity_key import REFUSED
from .rows import Rows, duplicate_columns
from .session import BatchError, Session
from .statements import CallersRows, checked_params, refuse_unsendable
from .transaction_sql import COMMIT, LAST_COMMIT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from psycopg.abc import Params, Query
    from psycopg.abc import Transformer as AnyTransformer
    from psycopg.pq.abc import PGresult

    from .block import Block
    from .bulk import BulkInsert
    from .guarded import GuardedConnection
    from .modes import Modes
    from .pool import Pool
    from .prepared import OwnStatement
    from .rows import Shape

__all__ = ["BATCH_ROWS", "InBlock", "OneRoundTrip"]

#: How many rows one batch of execute_many() takes.
BATCH_ROWS = 1000


class _ConvertedQuery(PostgresQuery):
    """psycopg's converted query, which raises errors of psycopg's alone."""

    __slots__ = ("_literal",)

    def convert(self, query: Query, vars: Params | None) -> None:  # noqa: A002 - psycopg's name
        self._literal = vars is None
        try:
            super().convert(query, vars)
        except psycopg.Error:
            raise
        except Exception as error:
            # Text that UTF-8 cannot encode, lists nested too deep, a type's own failure.
            raise psycopg.DataError(describe(error)) from error
        if not isinstance(self.query, bytes):
            raise psycopg.ProgrammingError(
                f"the query is {type(query).__name__}: it must be str, bytes or psycopg.sql"
            )

    def dump(self, vars: Params | None) -> None:  # noqa: A002 - psycopg's name
        if self._literal and vars:
            raise psycopg.ProgrammingError("the first row has no parameters, and a later one has")
        try:
            super().dump(None if self._literal else vars)
        except psycopg.Error:
            raise
        except Exception as error:
            raise psycopg.DataError(describe(error)) from error


class OneRoundTrip:
    """Runs one statement in a transaction of its own.

    Args:
        pool: Where the session comes from.
        context: The statement that gives the transaction its context.
        method: The public method's name, for messages.
    """

    def __init__(self, pool: Pool, context: OwnStatement, method: str) -> None:
        self._pool = pool
        self._context = context
        self._method = method
        self._tries_left = pool.max_size + 1
        # Converts the values of the current try.
        self._transformer: AnyTransformer
        self._head = BatchHead(context)
        self._is_committed = False
        self._key_was_renewed = False
        # Rows that execute_many() has changed; -1 until its first batch is through.
        self._changed = -1

    def run(self, query: Query, params: Params | None, shape: Shape) -> Rows[Any]:
        """Run *query*, commit, and return its rows; none for a statement without rows."""
        try:
            return self._run(query, params, shape)
        except ClientError:
            raise
        except Exception as error:
            raise self._unexpected(error) from error

    def _unexpected(self, error: Exception) -> PostgresError:
        return unexpected_error(error, f"{self._method}()", maybe_applied=self._is_committed)

    def _run(self, query: Query, params: Params | None, shape: Shape) -> Rows[Any]:
        again: Session | None = None
        while True:
            session, again = again or self._pool.checkout(), None
            rows: Rows[Any] | None = None
            try:
                self._transformer = Transformer(session.conn)
                converted = self._convert(self._transformer, query, params)
                batch = (*self._head.statements(session), converted)
                at = self._head.user_index
                if shape.is_checked_first:
                    results = session.run_batch(batch)
                    rows = self._checked_rows(session, converted, results[at], shape)
                    # By name: who took that away is told so, and not the next borrower.
                    session.run_batch((LAST_COMMIT,))
                else:
                    results = session.run_batch((*batch, LAST_COMMIT))
                self._is_committed = True
                self._head.learn(session, results)
                return self._rows(session, converted, results[at], shape) if rows is None else rows
            except BatchError as failure:
                self._is_committed = bool(failure.committed)
                if failure.committed:
                    # The server ended the session behind its answer.
                    answer = failure.results[at]
                    return self._rows(session, converted, answer, shape) if rows is None else rows
                if rows is None and self._head.is_out_of_date(session, failure):
                    if undo(session):
                        # The same one: what is idle beside it may be out of date as well.
                        again = session
                    elif not self._has_tries_left():
                        self._raise(session, failure)
                elif rows is not None or not (
                    self._may_try_again(failure) or self._signs_anew(session, failure)
                ):
                    self._raise(session, failure)
            finally:
                if again is None:
                    self._pool.give_back(session)

    def _checked_rows(
        self, session: Session, converted: PostgresQuery, result: PGresult, shape: Shape
    ) -> Rows[Any]:
        """Return the rows before the COMMIT, or roll back when they are not as the caller wants."""
        try:
            rows = self._rows(session, converted, result, shape)
            shape.check_count(rows.rowcount, self._method)
        except BaseException:
            undo(session)
            raise
        return rows

    def _rows(
        self, session: Session, converted: PostgresQuery, result: PGresult, shape: Shape
    ) -> Rows[Any]:
        """Return a result's rows as *shape* has them.

        Raises:
            PostgresError: Two columns have one name, and a dict would silently lose one; the
                columns do not fit the type of the rows; or a value cannot be read.
        """
        changed = result.command_tuples
        count = -1 if changed is None else changed
        if result.status != ExecStatus.TUPLES_OK:
            return Rows((), count)
        name = session.prepared.name_of(converted)
        names = None if name is None else session.prepared.columns.get(name)
        if names is None:
            names = self._column_names(result, shape)
            if name is not None:
                session.prepared.columns[name] = names
        make = shape.maker(names, self._method)
        try:
            self._transformer.set_pgresult(result)
            return Rows(self._transformer.load_rows(0, result.ntuples, make), count)
        except Exception as error:
            # A value that Python cannot hold, such as a date of year 10000, or a loader's own
            # failure.
            raise shape.unreadable(
                f"{self._method}() returned a value that cannot be read: {describe(error)}; select "
                "it as text"
            ) from error

    def _column_names(self, result: PGresult, shape: Shape) -> list[str]:
        encoding = self._transformer.encoding
        names = [(result.fname(i) or b"").decode(encoding) for i in range(result.nfields)]
        if duplicates := duplicate_columns(names):
            raise shape.unreadable(f"{self._method}() returned {duplicates}")
        return names

    def run_many(self, query: Query, rows: Iterable[Params]) -> int:
        """Run *query* once for each of *rows*, commit once, and return how many rows changed."""
        callers = CallersRows(rows)
        try:
            return self._run_many(query, iter(callers))
        except ClientError:
            raise
        except Exception as error:
            if error is callers.failure:
                raise
            raise self._unexpected(error) from error

    def _run_many(self, query: Query, remaining: Iterator[Params]) -> int:
        batch = list(islice(remaining, BATCH_ROWS))
        if not batch:
            return 0
        first = checked_params(batch[0], f"{self._method}()")
        refuse_unsendable(query, first, f"{self._method}()")
        while True:
            session = self._pool.checkout()
            self._changed = -1
            try:
                return self._run_batches(session, query, first, batch, remaining)
            except BatchError as failure:
                self._is_committed = bool(failure.committed)
                if failure.committed:
                    return self._changed
                # Once a batch is through, its rows are no longer at hand.
                if self._changed >= 0 or not (
                    self._may_try_again(failure) or self._signs_anew(session, failure)
                ):
                    self._raise(session, failure)
            except psycopg.Error as error:
                # A row that cannot be sent: nothing of its batch was.
                if not session.reusable:
                    undo(session)
                raise statement_error(error, f"{self._method}()", self._pool.target) from error
            except BaseException:
                if not session.reusable:
                    # The caller's iterator failed with the transaction half done.
                    session.close()
                raise
            finally:
                self._pool.give_back(session)

    def _run_batches(
        self,
        session: Session,
        query: Query,
        first: Params | None,
        batch: list[Params],
        remaining: Iterator[Params],
    ) -> int:
        converted = self._convert(Transformer(session.conn), query, first)
        head = self._head.full_reset(session)
        self._changed = _rows_changed(session.run_rows(head, converted, batch)[len(head) :])
        while batch := list(islice(remaining, BATCH_ROWS)):
            self._changed += _rows_changed(session.run_rows((), converted, batch))
        session.run_batch((COMMIT,))
        self._is_committed = True
        return self._changed

    def _convert(
        self, transformer: AnyTransformer, query: Query, params: Params | None
    ) -> PostgresQuery:
        converted = _ConvertedQuery(transformer)
        try:
            converted.convert(query, params)
        except psycopg.Error as error:
            raise statement_error(error, f"{self._method}()", self._pool.target) from error
        return converted

    def _signs_anew(self, session: Session, failure: BatchError) -> bool:
        """Return True when the server refused a signature, and there is another key to sign with.

        It refused the statement that the policies belong to, and so has undone all of the batch.
        """
        if (
            session.signatures is None
            or self._key_was_renewed
            or failure.committed is not False
            or failure.error.sqlstate != REFUSED
            or failure.error.diag.source_function is None
        ):
            return False
        self._key_was_renewed = True
        if not session.signatures.renew():
            return False
        undo(session)
        return True

    def _may_try_again(self, failure: BatchError) -> bool:
        # The server ended the session at an earlier statement, or could not reset it: by the
        # protocol's order the caller's was not run, so it may go to another session.
        return (
            self._has_tries_left()
            and failure.index is not None
            and failure.index < self._head.user_index
            and (was_terminated_by_server(failure.error) or self._cannot_reset(failure))
        )

    def _has_tries_left(self) -> bool:
        self._tries_left -= 1
        return self._tries_left > 0

    def _cannot_reset(self, failure: BatchError) -> bool:
        # The server's own words alone count, as in was_terminated_by_server().
        refused_by_server = failure.error.diag.source_function is not None
        return failure.index == 0 and refused_by_server and not is_connection_loss(failure.error)

    def _raise(self, session: Session, failure: BatchError) -> NoReturn:
        error, action = failure.error, f"{self._method}()"
        self._pool.learn_from(error)
        if failure.committed is None or failure.index is None:
            maybe_applied = failure.committed is None
            raise lost_error(
                error, action, self._pool.target, maybe_applied=maybe_applied
            ) from error
        if not session.reusable and not session.conn.closed:
            undo(session)
        raise statement_error(error, action, self._pool.target) from error


def _rows_changed(results: list[PGresult]) -> int:
    return sum(result.command_tuples or 0 for result in results)


class InBlock:
    """Runs one method's statements over a block, with our errors instead of psycopg's.

    Args:
        method: The public method's name, for messages.
        pool: The pool of the block, for messages.
    """

    def __init__(self, method: str, pool: Pool) -> None:
        self._method = method
        self._pool = pool

    def run(
        self, outer: Block, modes: Modes, query: Query, params: Params | None, shape: Shape
    ) -> Rows[Any]:
        """Run *query* as a savepoint of *outer*, and return its rows."""
        with self._mapped(), JoinedBlock(outer, modes) as conn:
            cursor = conn.cursor(row_factory=tuple_row).execute(query, params)
            rows: Rows[Any] = Rows((), cursor.rowcount)
            if cursor.description is not None:
                names = [column.name for column in cursor.description]
                if duplicates := duplicate_columns(names):
                    raise PostgresError(f"{self._method}() returned {duplicates}; it was undone")
                make = shape.maker(names, self._method)
                rows.extend(make(values) for values in cursor.fetchall())
            shape.check_count(rows.rowcount, self._method)
            if cursor.nextset():
                raise PostgresError(
                    f"{self._method}() takes one statement, not several; they were undone"
                )
            return rows

    def run_many(self, outer: Block, query: Query, rows: Iterable[Params], modes: Modes) -> int:
        """Run *query* for each of *rows* as one savepoint of *outer*."""
        callers = CallersRows(rows)
        remaining = iter(callers)
        changed = 0
        with self._mapped(callers), JoinedBlock(outer, modes) as conn:
            while batch := list(islice(remaining, BATCH_ROWS)):
                changed += conn.cursor().executemany(query, batch).rowcount
        return changed

    def bulk_insert(
        self,
        block: AbstractContextManager[GuardedConnection],
        bulk: BulkInsert,
        rows: Iterable[Sequence[Any]],
    ) -> int:
        """Store *rows* in a transaction or savepoint of their own, and return how many."""
        callers = CallersRows(rows)
        try:
            with self._mapped(callers), block as conn:
                return bulk.run(conn, callers)
        except PostgresError as error:
            # The server names no table when a policy refuses a row.
            if error.sqlstate is not None and error.table is None:
                error.table = bulk.table
            raise

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
            with self._mapped():
                cursor.execute(query, params)
            try:
                yield StreamedRows(cursor, batch_size, self._mapped)
            except GeneratorExit as left:
                # The reader, a generator itself, wants no more rows: that is no failure, and what
                # execute() wrote as a part of this block must not be lost for it.
                abandoned = left
        if abandoned is not None:
            raise abandoned

    @contextmanager
    def _mapped(self, callers: CallersRows | None = None) -> Iterator[None]:
        try:
            yield
        except ClientError:
            raise
        except Exception as error:
            if callers is not None and error is callers.failure:
                raise
            action = f"{self._method}()"
            if isinstance(error, psycopg.Error):
                raise statement_error(error, action, self._pool.target) from error
            raise unexpected_error(error, action, maybe_applied=False) from error

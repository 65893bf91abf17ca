"""Send several statements in one round trip, over psycopg's own libpq connection.

psycopg's pipeline costs 50 to 70 microseconds of CPU for each statement, and its trailing Flush
makes a transaction-pooling PgBouncer keep the server connection. The same statements sent through
``Connection.pgconn``, with one Sync behind the last, cost a few microseconds each and no Flush.
https://www.postgresql.org/docs/18/libpq-pipeline-mode.html

Whatever goes wrong between the first byte sent and the last result read closes the connection:
an answer that nobody waited for must never meet the next statement.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn, TypeAlias

import psycopg
from psycopg.errors import error_from_result
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus, TransactionStatus

from .._shared.interrupts import comes_from_signal_handler
from .commit_cursor import CommitCursor
from .errors import was_terminated_by_server
from .poller import READ, WRITE, new_poller
from .prepared import OwnStatement, Parse, PreparedStatements, without_parses
from .transaction_sql import (
    COMMIT,
    COMPARING_GUARD,
    COMPARING_MODES_GUARD,
    GUARD,
    LAST_COMMIT,
    MODES_GUARD,
    RESET,
    marker,
)
from .watchdog import WatchedConnection

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from psycopg._queries import PostgresQuery
    from psycopg.pq.abc import PGresult

    from .identity_key import Signatures
    from .watchdog import SilenceWatch

__all__ = ["BatchError", "Session", "Statement"]

#: A text without parameters, a statement of our own that always runs, or a converted query.
Statement: TypeAlias = "bytes | OwnStatement | PostgresQuery"

# Plain numbers: an enumeration costs half a microsecond for each comparison.
_SYNC = int(ExecStatus.PIPELINE_SYNC)
_FATAL = int(ExecStatus.FATAL_ERROR)
_OK, _IDLE = int(ConnStatus.OK), int(TransactionStatus.IDLE)
_COPY = frozenset(map(int, (ExecStatus.COPY_IN, ExecStatus.COPY_OUT, ExecStatus.COPY_BOTH)))
_NOT_DONE = _COPY | {_FATAL}

_NOT_OUR_COMMIT = (
    "the statement took away the COMMIT that the client had prepared: nothing was committed. Run "
    "it in connection(), which prepares none"
)


class BatchError(Exception):
    """The server refused a statement of a batch, or the connection broke.

    Args:
        error: psycopg's error.
        index: Which statement the server refused; None when the connection broke and nobody
            knows how far the server came.
        committed: Whether the COMMIT of the batch took effect: True when the server has confirmed
            it, False when it cannot have, None when nobody knows.
        results: What had been answered.
    """

    def __init__(
        self,
        error: psycopg.Error,
        index: int | None,
        *,
        committed: bool | None = False,
        results: Sequence[PGresult] = (),
    ) -> None:
        super().__init__(error, index)
        self.error = error
        self.index = index
        self.committed = committed
        self.results = results


class Session:
    """One physical connection, and what it takes to use it at libpq's level.

    Args:
        conn: An autocommit connection.
        watch: Decides when a silent server is given up; None: never.
    """

    __slots__ = (
        "__weakref__",
        "backend_pid",
        "block_mark",
        "born",
        "conn",
        "encoding",
        "own_timeout_ms",
        "pgconn",
        "pid",
        "place",
        "poller",
        "prepared",
        "signatures",
        "watch",
    )

    def __init__(
        self, conn: psycopg.Connection[dict[str, object]], watch: SilenceWatch | None = None
    ) -> None:
        #: The process that it belongs to: a forked child must leave the socket alone.
        self.pid = os.getpid()
        self.conn = conn
        conn.cursor_factory = CommitCursor
        self.pgconn = conn.pgconn
        self.watch = watch
        #: Who answers, unless a pooler stands between, which gives a number of its own.
        self.backend_pid = b"%d" % self.pgconn.backend_pid
        #: Where the pool keeps it: a place is free when the session that has it is dropped.
        self.place: object = None
        self.prepared = PreparedStatements()
        if isinstance(conn, WatchedConnection):
            conn.prepared = self.prepared
        self.born = time.monotonic()
        #: The ``statement_timeout`` that role, database or URL give it, in milliseconds; 0 is none.
        self.own_timeout_ms = 0
        #: Marks the transaction of a block.
        self.block_mark = marker(self.pgconn.parameter_status(b"application_name") or b"", 1)
        #: psycopg converts values before the next batch resets what SQL has made of it.
        self.encoding = self.pgconn.parameter_status(b"client_encoding")
        self.poller = new_poller(self.pgconn.socket)
        #: Signs the values of an identity; None where they are plain.
        self.signatures: Signatures | None = None

    def __del__(self) -> None:
        # An exception that a signal raised came between it and whoever would have closed it, or
        # before it was whole.
        if hasattr(self, "conn"):
            self.close()

    def contextual(self, context: OwnStatement) -> OwnStatement:
        """Return *context* as it is sent: signed, and with a time-out that loosens no stricter one.

        Args:
            context: A statement of ``ContextSql``; its first parameter is the time-out.

        Raises:
            ClientError: There is no key to sign with.
        """
        if context.signed and self.signatures is not None:
            context = self.signatures.signed(context)
        if self.own_timeout_ms == 0 or not context.params:
            return context
        given, *others = context.params
        if 0 < int(given) <= self.own_timeout_ms:
            return context
        return context._replace(params=(b"%d" % self.own_timeout_ms, *others))

    @property
    def transaction_status(self) -> int:
        """What libpq knows of the transaction, without asking the server."""
        return self.pgconn.transaction_status

    @property
    def reusable(self) -> bool:
        """Whether the next borrower may have it: connected, outside any transaction, readable."""
        try:
            return (
                self.pgconn.status == _OK
                and self.pgconn.transaction_status == _IDLE
                and self.pgconn.parameter_status(b"client_encoding") == self.encoding
            )
        except Exception:  # noqa: BLE001 - whatever it is, nobody should have this session
            return False

    def is_stale(self) -> bool:
        """Return True when the server has hung up on this idle session; costs no round trip.

        An idle server sends nothing: what can be read is its last message, or the end of file.
        """
        try:
            if not self.poller.poll(0):
                # Nothing has come since it was found fit for the next borrower.
                return self.pgconn.status != _OK
            if not self.pgconn.ssl_in_use:
                return True
            # TLS has messages of its own, such as session tickets: take them in, and look again.
            self.pgconn.consume_input()
            return bool(self.poller.poll(0)) or not self.reusable
        except Exception:  # noqa: BLE001 - whatever it is, nobody should have this session
            return True

    def run_batch(self, statements: Sequence[Statement]) -> list[PGresult]:
        """Send the statements with one Sync behind the last, and read all their results.

        Args:
            statements: They run in order; after one that fails, the rest is not run.

        Returns:
            A result for each.

        Raises:
            BatchError: The server refused one, or the connection broke and is closed now.
        """
        pgconn = self.pgconn
        send_prepared, names = pgconn.send_query_prepared, self.prepared.names
        results: list[PGresult] = []
        parses: list[Parse] = []
        commit: int | None = None
        try:
            pgconn.enter_pipeline_mode()
            for index, statement in enumerate(statements):
                if (
                    # Most of a batch: statements of our own that were prepared before.
                    type(statement) is OwnStatement
                    and (found := names.get(statement.query)) is not None
                    and found[1] == statement.types
                ):
                    # Before it is sent, nothing can be committed; but libpq sends on closing what
                    # it still has.
                    if statement is LAST_COMMIT:
                        commit = index
                    send_prepared(found[0], statement.params, statement.formats)
                else:
                    if statement is COMMIT or statement is LAST_COMMIT:
                        commit = index
                    self._send_by_name(index, statement, parses)
            pgconn.pipeline_sync()
            failed = self._read_to_sync(results)
            pgconn.exit_pipeline_mode()
        except Exception as error:  # noqa: BLE001 - whatever it is, what was sent may have run
            self._raise_loss(error, results, parses, commit)
        except BaseException:
            self.close()
            raise
        if parses:
            results = without_parses(results, parses, self.prepared)
        if failed:
            self._raise_failure(results, statements, commit)
        self._check_commit(results, commit)
        return results

    def run_rows(
        self, head: Sequence[Statement], query: PostgresQuery, rows: Iterable[object]
    ) -> list[PGresult]:
        """Send *head*, and *query* once for each of *rows*, in one batch.

        The statement is parsed once for each run of rows of the same types: the unnamed prepared
        statement lives until the Sync, and so is safe behind a transaction-pooling PgBouncer.

        Args:
            head: Statements to run first.
            query: The converted query.
            rows: Its parameters, row by row.

        Returns:
            The results, those of *head* first; preparations have results too.

        Raises:
            BatchError: As for ``run_batch``.
        """
        pgconn = self.pgconn
        results: list[PGresult] = []
        # All before the first is sent: a row that cannot be converted costs no connection.
        converted = []
        for row in rows:
            query.dump(row)  # type: ignore[arg-type]  # rows are checked by psycopg itself
            converted.append((query.types, query.params, query.formats))
        try:
            pgconn.enter_pipeline_mode()
            for statement in head:
                self._send(statement)
            last_types: tuple[int, ...] | None = None
            for types, params, formats in converted:
                if types != last_types:
                    last_types = types
                    pgconn.send_prepare(b"", query.query, types)
                pgconn.send_query_prepared(b"", params, formats)
                # What the server has answered is read while we send: neither side's buffer fills.
                if pgconn.flush():
                    self._take_turns()
            pgconn.pipeline_sync()
            self._read_to_sync(results)
            pgconn.exit_pipeline_mode()
        except Exception as error:  # noqa: BLE001 - whatever it is, no answer may be left behind
            self._raise_loss(error, results)
        except BaseException:
            self.close()
            raise
        self._raise_failure(results, head)
        return results

    def message(self, text: bytes) -> list[PGresult]:
        """Send one simple message of several statements, and read all their results.

        Args:
            text: SQL without parameters; the statements are separated by semicolons.

        Returns:
            A result for each statement that ran.

        Raises:
            BatchError: The server refused one, or the connection broke and is closed now.
        """
        results: list[PGresult] = []
        # A simple message drops the unnamed statement.
        self.prepared.unnamed_guard = None
        try:
            self.pgconn.send_query(text)
            self._flush()
            while (result := self._next_result()) is not None:
                results.append(result)
        except Exception as error:  # noqa: BLE001 - whatever it is, no answer may be left behind
            self._raise_loss(error, results)
        except BaseException:
            self.close()
            raise
        self._raise_failure(results)
        return results

    def close(self) -> None:
        """Close the connection; more than once does no harm."""
        # Closing in a forked child would end the parent's session on the server.
        if self.pid == os.getpid():
            self.conn.close()

    def _check_commit(self, results: list[PGresult], commit: int | None) -> None:
        # The caller's SQL can put a statement of its own under the name of ours.
        if commit is not None and results[commit].command_status != COMMIT:
            self.close()
            error = psycopg.InternalError(_NOT_OUR_COMMIT)
            raise BatchError(error, commit, committed=False, results=results)

    def _send_by_name(self, index: int, statement: Statement, parses: list[Parse]) -> None:
        if isinstance(statement, bytes):
            self._send(statement)
            return
        name = self.prepared.name_of(statement)
        if name is None:
            name = self.prepared.name_to_prepare(statement)
            if name is None:
                self._send(statement)
                return
            parses.append(Parse(index, self.prepared.key_of(statement), statement.types, name))
            self.pgconn.send_prepare(name, statement.query, statement.types or None)
        self.pgconn.send_query_prepared(name, statement.params, statement.formats)

    def _send(self, statement: Statement) -> None:
        if statement is GUARD or statement is MODES_GUARD:
            functions, guard, values = self.prepared.compared_functions, statement, []
            if functions is not None:
                guard = COMPARING_GUARD if statement is GUARD else COMPARING_MODES_GUARD
                values = [functions]
            if self.prepared.unnamed_guard is guard:
                self.pgconn.send_query_prepared(b"", values)
            else:
                self.pgconn.send_query_params(guard, values)
            self.prepared.unnamed_guard, self.prepared.is_guarded = guard, True
            return
        self.prepared.unnamed_guard = None
        if isinstance(statement, bytes):
            if statement == RESET:
                self.prepared.forget()
                self.prepared.is_guarded = False
            self.pgconn.send_query_params(statement, None)
        else:
            self.pgconn.send_query_params(
                statement.query, statement.params, statement.types or None, statement.formats
            )

    def _read_to_sync(self, results: list[PGresult]) -> bool:
        """Read into *results* up to the Sync; return whether the server refused a statement."""
        self._flush()
        is_busy, get_result = self.pgconn.is_busy, self.pgconn.get_result
        failed, nothing = False, 0
        # The hot loop: a batch has a dozen statements, and two looks for each.
        while True:
            while is_busy():
                self._wait(READ)
                self.pgconn.consume_input()
            result = get_result()
            if result is None:
                # One None ends each statement's results; two in a row mean that none are left.
                nothing += 1
                if nothing > 1:
                    raise psycopg.OperationalError("the connection is lost")
                continue
            nothing = 0
            status = result.status
            if status == _SYNC:
                return failed
            if status in _NOT_DONE:
                if status != _FATAL:
                    raise psycopg.NotSupportedError("COPY cannot run here")
                failed = True
            results.append(result)

    def _next_result(self) -> PGresult | None:
        pgconn = self.pgconn
        while pgconn.is_busy():
            self._wait(READ)
            pgconn.consume_input()
        result = pgconn.get_result()
        if result is not None and result.status in _COPY:
            raise psycopg.NotSupportedError("COPY cannot run here")
        return result

    def _flush(self) -> None:
        while self.pgconn.flush():
            self._take_turns()

    def _take_turns(self) -> None:
        if self._wait(READ | WRITE) & READ:
            self.pgconn.consume_input()

    def _wait(self, events: int) -> int:
        if events != READ:
            self.poller.modify(self.pgconn.socket, events)
        try:
            if self.watch is None:
                return self.poller.poll()[0][1]
            return self.watch.wait(self.poller, self.pgconn)
        finally:
            if events != READ:
                self.poller.modify(self.pgconn.socket, READ)

    def _raise_loss(
        self,
        error: Exception,
        results: list[PGresult],
        parses: Sequence[Parse] = (),
        commit: int | None = None,
    ) -> NoReturn:
        """Close, and say what the server said last: it tells how far it came, a lost socket not."""
        if comes_from_signal_handler(error):
            self.close()
            raise error
        if isinstance(error, psycopg.OperationalError):
            with suppress(psycopg.Error):
                while not self.pgconn.is_busy() and (last := self.pgconn.get_result()) is not None:
                    results.append(last)
        self.close()
        results = without_parses(results, parses, self.prepared)
        committed = _outcome(results, commit)
        for index, result in enumerate(results):
            if result.status == _FATAL and result.error_field(DiagnosticField.SQLSTATE):
                last_words = error_from_result(result, encoding="utf-8")
                raise BatchError(
                    last_words, index, committed=committed, results=results
                ) from last_words
        if not isinstance(error, psycopg.Error):
            # Not the server's fault nor the network's: the connection is given up all the same.
            error = _as_psycopg_error(error)
        raise BatchError(error, None, committed=committed, results=results) from error

    def _raise_failure(
        self,
        results: list[PGresult],
        statements: Sequence[Statement] = (),
        commit: int | None = None,
    ) -> None:
        for index, result in enumerate(results):
            if result.status == _FATAL:
                error: psycopg.Error = error_from_result(result, encoding="utf-8")
                if index == commit and self.prepared.is_out_of_date(error):
                    # Never sent anew: the caller's statement has run.
                    error = psycopg.InternalError(_NOT_OUR_COMMIT)
                # What the last borrower left would make the reset fail again and again.
                not_reset = index < len(statements) and statements[index] is RESET
                if not_reset or self.pgconn.status != ConnStatus.OK:
                    self.close()
                raise BatchError(
                    error, index, committed=_outcome(results, commit), results=results
                ) from error


def _outcome(results: Sequence[PGresult], commit: int | None) -> bool | None:
    """Return whether a batch was committed; None when nobody knows.

    Args:
        results: The results of the statements, as far as they came.
        commit: Which of them is the COMMIT's; None when no COMMIT was sent.
    """
    if commit is None:
        return False
    if len(results) > commit and results[commit].command_status == COMMIT:
        return True
    for index, result in enumerate(results[: commit + 1]):
        if result.status == _FATAL:
            error = error_from_result(result, encoding="utf-8")
            if error.diag.severity_nonlocalized == "ERROR" and error.diag.source_function:
                return False
            # The server ended the session. Before the COMMIT it cannot have run that; at the
            # COMMIT it may have, and only the answer is lost. A pooler's words tell nothing.
            return False if was_terminated_by_server(error) and index < commit else None
    return None


def _as_psycopg_error(error: Exception) -> psycopg.Error:
    wrapped = psycopg.InternalError(f"{type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped

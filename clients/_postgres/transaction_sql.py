"""The SQL that this client sends of its own: session reset, context, begin and end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg.pq import Escaping

from .plan_check import SAME_FUNCTIONS
from .prepared import OwnStatement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg.pq.abc import PGconn

__all__ = [
    "BEGIN",
    "COMMIT",
    "COMPARING_GUARD",
    "COMPARING_MODES_GUARD",
    "GUARD",
    "LAST_COMMIT",
    "LAST_ROLLBACK",
    "MODES_GUARD",
    "PREPARED_RESET",
    "PREPARED_RESET_APART",
    "RELEASE",
    "RESET",
    "ROLLBACK",
    "ContextSql",
    "marker",
]

BEGIN = b"BEGIN"
COMMIT = b"COMMIT"
ROLLBACK = b"ROLLBACK"

#: Forgets what a session can carry over to its next borrower: settings, the role, temporary tables
#: (which shadow real ones), cursors WITH HOLD (which hold rows), prepared statements, advisory
#: locks, LISTEN, sequence values. A function can set each of them, so every batch begins with it,
#: whoever ran last. It cannot share a simple message with BEGIN or COMMIT; a batch takes it, and
#: commits it at once, so that a ROLLBACK in the transaction that follows brings nothing back.
#: https://www.postgresql.org/docs/18/sql-discard.html
RESET = b"DISCARD ALL"

# What SQL seldom leaves: prepared statements, cursors WITH HOLD, channels that it listens to. To
# look for them costs less than to drop them, and UNLISTEN would wait for the COMMIT. Every name has
# its schema: the last borrower's search_path and temporary tables are still there.
_LEFT_BY_SQL = (
    b"FROM (SELECT p.from_sql AS found FROM pg_catalog.pg_prepared_statement() AS p"
    b" UNION ALL SELECT c.is_holdable FROM pg_catalog.pg_cursor() AS c"
    b" UNION ALL SELECT l IS NOT NULL FROM pg_catalog.pg_listening_channels() AS l%b) AS o"
    b" WHERE o.found"
)

# What a transaction has from its first statement on, and no BEGIN behind that can assert: whether
# it is deferrable, and the time-out that ends it, which an older server does not have.
_LEFT_IN_TRANSACTION = (
    b" UNION ALL SELECT"
    b" pg_catalog.texteq(pg_catalog.current_setting('transaction_deferrable'), 'on')"
    b" OR pg_catalog.textne(pg_catalog.current_setting('transaction_timeout', true), '0')"
)

#: Fails with 22012 when something of _LEFT_BY_SQL is there: a prepared statement may bear the name
#: of one of ours, and would run in the next borrower's transaction. MODES_GUARD leads where
#: transactions begin as PREPARED_RESET has it, and finds what is _LEFT_IN_TRANSACTION as well, be
#: it the last borrower's or a new default of the server. The division is computed for what is found
#: alone, and the result has no row. Nothing prepared runs before a guard, and it is never prepared
#: under a name itself: SQL cannot touch the unnamed statement.
GUARD, MODES_GUARD = (
    b"SELECT pg_catalog.int4div(1, CASE WHEN o.found THEN 0 ELSE 1 END) " + _LEFT_BY_SQL % more
    for more in (b"", _LEFT_IN_TRANSACTION)
)

#: What a session that has changed its identity sends in its place: fails with 22003 as well, when
#: the functions are others than those of its parameter, see plan_check. Of its own, and without a
#: way around the comparison: the server would take a plan without it for so much cheaper that it
#: made one anew for every batch.
COMPARING_GUARD, COMPARING_MODES_GUARD = (
    b"SELECT pg_catalog.int4div(1, CASE WHEN EXISTS (SELECT %b) THEN 0 ELSE 1 END),"
    b" pg_catalog.int4um(CASE WHEN %b THEN 1 ELSE '-2147483648'::pg_catalog.int4 END)"
    % (_LEFT_BY_SQL % more, SAME_FUNCTIONS)
    for more in (b"", _LEFT_IN_TRANSACTION)
)

_RESETS = tuple(
    OwnStatement(text)
    for text in (
        b"RESET SESSION AUTHORIZATION",
        b"RESET ALL",
        b"DISCARD TEMP",
        b"DISCARD SEQUENCES",
    )
)
_PREPARED_BEGIN = OwnStatement(BEGIN)

#: What RESET stands for, less what would forget prepared statements and what the guard has looked
#: for, behind a BEGIN; the context statement sees to the rest. A rollback would bring back what was
#: reset, but it ends the batch, and the next one begins with a reset again. The modes of the
#: transaction were decided before that: with its first statement, the guard, by whatever defaults
#: the last borrower has left. A transaction that has read something cannot change them, so this
#: BEGIN fails with 25001 where they are others; what it cannot say MODES_GUARD has looked for.
#: https://www.postgresql.org/docs/18/sql-set-transaction.html
PREPARED_RESET = (OwnStatement(b"BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE"), *_RESETS)

#: The same with a transaction of its own for the reset: where transactions begin in other modes,
#: and where a ROLLBACK may come that does not end the batch.
PREPARED_RESET_APART = (_PREPARED_BEGIN, *_RESETS, OwnStatement(COMMIT), _PREPARED_BEGIN)

#: COMMIT behind the caller's statement. That could take its name away, or put a SELECT under it:
#: the server's answer tells.
LAST_COMMIT = OwnStatement(COMMIT)

#: ROLLBACK behind it, at the end of a block. A session that is in a transaction after it is closed.
LAST_ROLLBACK = OwnStatement(ROLLBACK)

#: What a session gives up at the end of a block that leaves the rest to the next borrower's reset:
#: others may be waiting for these locks.
RELEASE = OwnStatement(b"SELECT pg_catalog.pg_advisory_unlock_all()")

# When the transaction began: no two of a session's began at the same time. As a number, its text
# depends on no setting.
_BEGAN = b"extract(epoch FROM pg_catalog.now())"

# NAMEDATALEN leaves a name 63 bytes.
_NAME_LENGTH = 36


class ContextSql:
    """The statements that give a transaction its context, for one client's settings.

    All values are parameters, set locally: PgBouncer and a rollback both forget them with the
    transaction. Every function has its schema: a role may give itself another ``search_path``, and
    no function of its own shall be handed a signed value. Without a user ``row_security`` is off,
    so that a role which policies bind gets an error and never a silently filtered result.
    https://www.postgresql.org/docs/18/runtime-config-client.html#GUC-ROW-SECURITY

    Args:
        settings: The names that policies read, checked before.
        local_role: The role that users' transactions run under; None: the login's.
        statement_timeout_ms: Limits each statement, in milliseconds; 0 is no limit.
        signs: Whether a session signs the values.
    """

    def __init__(
        self,
        settings: Sequence[str],
        local_role: str | None,
        statement_timeout_ms: int,
        *,
        signs: bool = False,
    ) -> None:
        names = [name.encode() for name in settings]
        self._signed = tuple(names) if signs else ()
        self._limit = b"%d" % statement_timeout_ms
        # The parameter behind the time-out and the values.
        role = (
            b", pg_catalog.set_config('role', $%d, true)" % (len(names) + 2) if local_role else b""
        )
        self._role = () if local_role is None else (local_role.encode(),)
        self._mark_of_user = len(names) + 2 + len(self._role)
        # Its first columns: whether a pooler stands between, and the last of what PREPARED_RESET
        # leaves.
        call = (
            b"SELECT pg_catalog.pg_backend_pid(), pg_catalog.pg_advisory_unlock_all(),"
            b" pg_catalog.set_config('statement_timeout', $1, true)"
        )
        block = b"SELECT pg_catalog.set_config('statement_timeout', $1, true)"
        user = b"".join(
            b", pg_catalog.set_config('%b', $%d, true)" % (name, number)
            for number, name in enumerate(names, 2)
        )
        admin = b"".join(b", pg_catalog.set_config('%b', '', true)" % name for name in names)
        admin += b", pg_catalog.set_config('row_security', 'off', true)"
        self._user_call, self._admin_call = call + user + role, call + admin
        mark = b", pg_catalog.set_config('application_name', $%d, true), " + _BEGAN
        marked_user = user + role + mark % self._mark_of_user
        marked_admin = admin + mark % 2
        self._user_block, self._admin_block = block + marked_user, block + marked_admin
        self._kept_user_block, self._kept_admin_block = call + marked_user, call + marked_admin
        columns = b", ".join(b"pg_catalog.current_setting('%b', true)" % name for name in names)
        self._user_check = columns + (
            b", pg_catalog.current_setting('role')" if local_role else b""
        )

    def of_call(
        self, values: tuple[bytes, ...] | None, timeout_ms: int | None = None
    ) -> OwnStatement:
        """Return the statement for one call, worth preparing.

        Args:
            values: What the settings get, in their order; None for an administrator.
            timeout_ms: Limits each statement instead of the client's time-out, in milliseconds.
        """
        limit = self._limit if timeout_ms is None else b"%d" % timeout_ms
        if values is None:
            return OwnStatement(self._admin_call, (limit,))
        return OwnStatement(self._user_call, (limit, *values, *self._role), signed=self._signed)

    def of_block(
        self,
        values: tuple[bytes, ...] | None,
        mark: bytes,
        timeout_ms: int | None = None,
        *,
        is_kept: bool = False,
    ) -> OwnStatement:
        """Return the statement for a block, which marks its transaction.

        The server reports every change of ``application_name`` by itself. Set locally, it changes
        back when the transaction ends, however it ends: that tells us, without a round trip, that
        the context is gone. The last column of the result says when the transaction began.
        https://www.postgresql.org/docs/18/libpq-status.html#LIBPQ-PQPARAMETERSTATUS

        Args:
            values: What the settings get, in their order; None for an administrator.
            mark: What ``marker`` returned.
            timeout_ms: Limits each statement instead of the client's time-out, in milliseconds.
            is_kept: Whether the session keeps what it has prepared at the block's end; the first
                columns are those of ``of_call`` then.
        """
        limit = self._limit if timeout_ms is None else b"%d" % timeout_ms
        if values is None:
            text = self._kept_admin_block if is_kept else self._admin_block
            return OwnStatement(text, (limit, mark), is_kept=is_kept)
        text = self._kept_user_block if is_kept else self._user_block
        params = (limit, *values, *self._role, mark)
        return OwnStatement(text, params, is_kept=is_kept, signed=self._signed)

    def check(self, values: tuple[bytes, ...] | None, pgconn: PGconn, mark: bytes) -> bytes:
        """Return the query for a transaction's context, which marks it again.

        Its columns are what ``expected`` returns, and behind them when the transaction began.

        Args:
            values: What the settings got; None for an administrator.
            pgconn: The connection, for escaping.
            mark: What ``marker`` returned; another than the last one.
        """
        columns = (
            b"pg_catalog.current_setting('row_security')" if values is None else self._user_check
        )
        escaped = Escaping(pgconn).escape_literal(mark)
        return b"SELECT %b, %b, pg_catalog.set_config('application_name', %b, true)" % (
            columns,
            _BEGAN,
            escaped,
        )

    def expected(self, values: tuple[bytes, ...] | None) -> tuple[bytes, ...]:
        """Return what the first columns of ``check`` are while the context is there."""
        return (b"off",) if values is None else (*values, *self._role)


def marker(application_name: bytes, number: int) -> bytes:
    """Return the ``application_name`` that marks a transaction.

    Args:
        application_name: What others shall recognise it by.
        number: Tells the marks of one transaction apart: SQL may have set an earlier one.
    """
    name = application_name.split(b" [failfast block")[0][:_NAME_LENGTH]
    return b"%b [failfast block%b]" % (name, b" %d" % number if number > 1 else b"")

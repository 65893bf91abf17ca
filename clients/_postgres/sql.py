"""The SQL that this client sends of its own: session reset, context, begin and end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg.pq import Escaping

from .prepared import OwnStatement

if TYPE_CHECKING:
    from uuid import UUID

    from psycopg.pq.abc import PGconn

__all__ = [
    "BEGIN",
    "COMMIT",
    "GUARD",
    "LAST_COMMIT",
    "PREPARED_RESET",
    "RESET",
    "ROLLBACK",
    "admin_context",
    "context_query",
    "marked",
    "marker",
    "prepared_context",
    "user_context",
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

#: Fails when SQL has prepared a statement: it may bear the name of one of ours, and would run in
#: the next borrower's transaction. Nothing prepared runs before it, and it is never prepared under
#: a name itself: SQL cannot touch the unnamed statement. Every name has its schema, since the last
#: borrower's search_path and temporary tables are still there.
GUARD = (
    b"SELECT pg_catalog.int4div(1, CASE WHEN EXISTS (SELECT FROM"
    b" pg_catalog.pg_prepared_statements AS p WHERE p.from_sql) THEN 0 ELSE 1 END)"
)

#: What RESET stands for, less what would forget prepared statements, up to the BEGIN; the context
#: statement sees to the rest. In a transaction of its own: the next one begins with the defaults
#: that were reset, such as default_transaction_read_only, and no ROLLBACK brings any back.
PREPARED_RESET = tuple(
    OwnStatement(text)
    for text in (
        BEGIN,
        b"CLOSE ALL",
        b"RESET SESSION AUTHORIZATION",
        b"RESET ALL",
        b"UNLISTEN *",
        b"DISCARD TEMP",
        b"DISCARD SEQUENCES",
        COMMIT,
        BEGIN,
    )
)

#: COMMIT behind the caller's statement: never under a name that this could have taken.
LAST_COMMIT = OwnStatement(COMMIT)

# Its columns: whether a pooler stands between, and the last of what PREPARED_RESET leaves.
_PREPARED_CONTEXT = (
    b"SELECT pg_backend_pid(), pg_advisory_unlock_all(), set_config('statement_timeout', $1, true),"
    b" set_config('app.current_user_id', "
)
_PREPARED_USER = _PREPARED_CONTEXT + b"$2, true)"
_PREPARED_ADMIN = _PREPARED_CONTEXT + b"'', true), set_config('row_security', 'off', true)"

# When the transaction began: no two of a session's began at the same time. As a number, its text
# depends on no setting.
_BEGAN = b"extract(epoch FROM now())"

_CONTEXT_QUERY = (
    b"SELECT current_setting('app.current_user_id', true), current_setting('row_security'), "
    + _BEGAN
)
# NAMEDATALEN leaves a name 63 bytes.
_NAME_LENGTH = 36


def user_context(user_id: UUID, statement_timeout_ms: int) -> bytes:
    """Return the statement that gives a transaction its user.

    Args:
        user_id: The user; a UUID's text needs no escaping.
        statement_timeout_ms: Limits each statement, in milliseconds; 0 is no limit.
    """
    # Set locally: PgBouncer and a rollback both forget it with the transaction.
    return (
        b"SELECT set_config('app.current_user_id', '%b', true),"
        b" set_config('statement_timeout', '%d', true)"
        % (str(user_id).encode(), statement_timeout_ms)
    )


def admin_context(statement_timeout_ms: int) -> bytes:
    """Return the statement for a transaction without a user.

    With ``row_security`` off, a role that policies bind gets an error and never a silently
    filtered result.
    https://www.postgresql.org/docs/18/runtime-config-client.html#GUC-ROW-SECURITY
    """
    return (
        b"SELECT set_config('app.current_user_id', '', true), set_config('row_security', 'off',"
        b" true), set_config('statement_timeout', '%d', true)" % statement_timeout_ms
    )


def prepared_context(user_id: UUID | None, statement_timeout_ms: int) -> OwnStatement:
    """Return what ``user_context`` or ``admin_context`` does, for a batch to prepare.

    Args:
        user_id: The user; None is an administrator.
        statement_timeout_ms: Limits each statement, in milliseconds; 0 is no limit.
    """
    limit = b"%d" % statement_timeout_ms
    if user_id is None:
        return OwnStatement(_PREPARED_ADMIN, (limit,))
    return OwnStatement(_PREPARED_USER, (limit, str(user_id).encode()))


def marker(application_name: bytes, number: int) -> bytes:
    """Return the ``application_name`` that marks a transaction.

    Args:
        application_name: What others shall recognise it by.
        number: Tells the marks of one transaction apart: SQL may have set an earlier one.
    """
    name = application_name.split(b" [failfast block")[0][:_NAME_LENGTH]
    return b"%b [failfast block%b]" % (name, b" %d" % number if number > 1 else b"")


def marked(context: bytes, pgconn: PGconn, name: bytes) -> bytes:
    """Return the context statement of a block, which marks its transaction.

    The server reports every change of ``application_name`` by itself. Set locally, it changes
    back when the transaction ends, however it ends: that tells us, without a round trip, that
    the context is gone. The last column of the result says when the transaction began.
    https://www.postgresql.org/docs/18/libpq-status.html#LIBPQ-PQPARAMETERSTATUS

    Args:
        context: What ``user_context`` or ``admin_context`` returned.
        pgconn: The connection, for escaping.
        name: What ``marker`` returned.
    """
    return b"%b, %b, %b" % (context, _set_marker(pgconn, name), _BEGAN)


def context_query(pgconn: PGconn, name: bytes) -> bytes:
    """Return what asks for the transaction's context, and marks it anew.

    The columns are the user, whether policies may filter silently, and which transaction it is.

    Args:
        pgconn: The connection, for escaping.
        name: What ``marker`` returned; another than the last one.
    """
    return b"%b, %b" % (_CONTEXT_QUERY, _set_marker(pgconn, name))


def _set_marker(pgconn: PGconn, name: bytes) -> bytes:
    return b"set_config('application_name', %b, true)" % Escaping(pgconn).escape_literal(name)

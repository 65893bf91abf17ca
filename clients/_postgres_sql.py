"""The SQL that this client sends of its own: session reset, context, begin and end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg.pq import Escaping

if TYPE_CHECKING:
    from uuid import UUID

    from psycopg.pq.abc import PGconn

__all__ = [
    "BEGIN",
    "COMMIT",
    "COMMIT_AND_CLEAN",
    "CONTEXT_QUERY",
    "RESET_STATEMENTS",
    "ROLLBACK",
    "ROLLBACK_AND_CLEAN",
    "admin_context",
    "begin_message",
    "user_context",
]

BEGIN = b"BEGIN"
COMMIT = b"COMMIT"
ROLLBACK = b"ROLLBACK"

# What can steer the next borrower's statements: settings, the role, and temporary tables, which
# shadow real ones. A function can set each of them, so they are reset before every transaction,
# whoever ran last. https://www.postgresql.org/docs/18/sql-discard.html lists what a session holds.
RESET_STATEMENTS = (b"RESET SESSION AUTHORIZATION", b"RESET ALL", b"DISCARD TEMP")

# DISCARD ALL cannot follow COMMIT in one message; these are the statements that it stands for,
# less the plan cache, which holds nothing of a user's.
_CLEAN = b"; ".join(
    (
        b"CLOSE ALL",
        b"DEALLOCATE ALL",
        b"UNLISTEN *",
        b"SELECT pg_advisory_unlock_all()",
        b"DISCARD SEQUENCES",
        *RESET_STATEMENTS,
    )
)
COMMIT_AND_CLEAN = COMMIT + b"; " + _CLEAN
ROLLBACK_AND_CLEAN = ROLLBACK + b"; " + _CLEAN

# When the transaction began: no two of a session's began at the same time. As a number, its text
# depends on no setting.
_BEGAN = b"extract(epoch FROM now())"

#: Asks what the transaction's context is: the user, whether policies may filter silently, and
#: which transaction it is.
CONTEXT_QUERY = (
    b"SELECT current_setting('app.current_user_id', true), current_setting('row_security'), "
    + _BEGAN
)


def user_context(user_id: UUID, statement_timeout_ms: int) -> bytes:
    """Return the statement that gives a transaction its user.

    Args:
        user_id: The user; a UUID's text needs no escaping.
        statement_timeout_ms: Limits each statement, in milliseconds; 0 is no limit.
    """
    # Set locally: PgBouncer and a rollback both forget it with the transaction.
    return (
        b"SELECT set_config('app.current_user_id', '%b', true),"
        b" set_config('statement_timeout', '%d', true), pg_advisory_unlock_all()"
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
        b" true), set_config('statement_timeout', '%d', true), pg_advisory_unlock_all()"
        % statement_timeout_ms
    )


def begin_message(context: bytes, pgconn: PGconn, marker: bytes) -> bytes:
    """Return the message that opens a block: reset, BEGIN, context, marker.

    The reset has a transaction of its own: the statements of one message share one otherwise, and
    a ROLLBACK in the block would bring back what the session's last borrower had set. The last
    column of the last result says when the block's transaction began.

    The server reports every change of ``application_name`` by itself. Set locally, it changes
    back when the transaction ends, however it ends: that tells us, without a round trip, that
    the context is gone. https://www.postgresql.org/docs/18/libpq-status.html#LIBPQ-PQPARAMETERSTATUS

    Args:
        context: What ``user_context`` or ``admin_context`` returned.
        pgconn: The connection, for escaping.
        marker: The transaction's ``application_name``.
    """
    literal = Escaping(pgconn).escape_literal(marker)
    return b"; ".join(
        (
            BEGIN,
            *RESET_STATEMENTS,
            COMMIT,
            BEGIN,
            b"%b, set_config('application_name', %b, true), %b" % (context, literal, _BEGAN),
        )
    )

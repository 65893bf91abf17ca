"""Turn psycopg's errors into ours: one total mapping, and what each failure means."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg

from .._shared.interrupts import comes_from_signal_handler, is_interrupt
from ..errors import PostgresConnectionError, PostgresError

if TYPE_CHECKING:
    from .settings import Target
    from .startup import StartupError

__all__ = [
    "connect_error",
    "describe",
    "is_connection_loss",
    "is_read_only",
    "is_role_gone",
    "lost_error",
    "statement_error",
    "unexpected_error",
    "was_terminated_by_server",
]

# https://www.postgresql.org/docs/18/errcodes-appendix.html
_TERMINATED = ("57P01", "57P02", "57P05", "25P03", "25P04")
_CONNECTION_LOSS = ("08", "57P03", *_TERMINATED)

# What helps against each reason for which a connection attempt fails.
_FIXES = {
    "login": "check the user and the password, or rotate the secret that holds them",
    "refused": "check that the server runs and listens there",
    "lost": "check that the server runs and listens there",
    "timeout": "nothing answered there: check the address, or raise connect_timeout",
    "database": "check the name of the database, and the role's right to connect to it",
    "exhausted": "lower pool_size, or raise the limit of the server, database or role",
    "resources": "this process has no file descriptors left: close some, or raise its limit",
    "tls": "check sslmode and certificates; for a key with a password, add sslpassword to the URL",
}


def is_connection_loss(error: psycopg.Error) -> bool:
    """Return True when *error* means that the session is gone.

    A session that goes on says ERROR: one that lost a server of its own, as a foreign data wrapper
    does, or got placeholders and parameters that do not match.
    """
    if error.sqlstate is not None:
        ended = error.diag.severity_nonlocalized != "ERROR"
        return ended and error.sqlstate.startswith(_CONNECTION_LOSS)
    return isinstance(error, psycopg.OperationalError)


def was_terminated_by_server(error: psycopg.Error) -> bool:
    """Return True when the server itself says that it ended the session, and at which statement.

    A pooler can say it too, while the answer to a statement that did run is lost; its errors name
    no function of the server's source.
    """
    return error.sqlstate in _TERMINATED and error.diag.source_function is not None


def is_read_only(error: psycopg.Error) -> bool:
    """Return True for 25006: after a fail-over this session may be on the demoted server."""
    return error.sqlstate == "25006"


def is_role_gone(error: psycopg.Error) -> bool:
    """Return True when the session's role seems to have been dropped or to have lost its grants.

    The server lets the sessions of a dropped role go on, and denies them every table.
    """
    denied = error.sqlstate == "42501" and error.diag.source_function == "aclcheck_error"
    dropped = error.sqlstate == "42704" and error.diag.source_function == "GetUserNameFromId"
    return denied or dropped


def connect_error(error: StartupError, target: Target, waited: float) -> PostgresConnectionError:
    """Map a failed connection attempt.

    Args:
        error: Why it failed.
        target: Where to, and the password to keep out of the text.
        waited: How long it was tried, in seconds.
    """
    words = " ".join(target.redact(error).split()) or type(error).__name__
    fix = _FIXES.get(error.reason)
    return PostgresConnectionError(
        f"cannot connect to PostgreSQL at {target.description} after {waited:.2f} s: {words}"
        + (f"; {fix}" if fix else ""),
        sqlstate=error.sqlstate,
        reason=error.reason,
    )


def statement_error(error: psycopg.Error, action: str, target: Target) -> PostgresError:
    """Map an error that a statement raised, or psycopg while preparing it.

    Args:
        error: psycopg's error.
        action: What was being done, such as ``"execute()"``.
        target: Where, and the password to keep out of the text.
    """
    primary = error.diag.message_primary or str(error).strip() or type(error).__name__
    details = [primary, error.diag.message_detail, error.diag.message_hint]
    words = target.redact("; ".join(part for part in details if part))
    lost = is_connection_loss(error)
    kind = PostgresConnectionError if lost else PostgresError
    state = f" (SQLSTATE {error.sqlstate})" if error.sqlstate else ""
    return kind(
        f"{action} failed: {words}{state}",
        sqlstate=error.sqlstate,
        reason="lost" if lost else None,
        constraint=error.diag.constraint_name,
        table=error.diag.table_name,
    )


def describe(error: Exception) -> str:
    """Return the words of an error that a value's conversion raised.

    What a signal handler raised meanwhile is no failure of ours: it is raised again as it is.
    """
    if isinstance(error, psycopg.Error):
        return str(error)
    if comes_from_signal_handler(error):
        raise error
    if isinstance(error, RecursionError):
        return "RecursionError: it is nested too deep for Python"
    return f"{type(error).__name__}: {error}"


def unexpected_error(error: Exception, action: str, *, maybe_applied: bool) -> PostgresError:
    """Map what neither the server nor the driver should have raised.

    Args:
        error: What was raised.
        action: What was being done, such as ``"execute()"``.
        maybe_applied: Whether it may have been committed.
    """
    # One that came while connecting has left its frames behind, with the password in them.
    if is_interrupt(error, "psycopg", "psycopg_binary", "psycopg_c", "psycopg_pool"):
        raise error
    outcome = "It may have been committed" if maybe_applied else "Nothing was committed"
    return PostgresError(
        f"{action} failed: {describe(error)}. {outcome}", maybe_applied=maybe_applied
    )


def lost_error(
    error: psycopg.Error, action: str, target: Target, *, maybe_applied: bool
) -> PostgresConnectionError:
    """Map a connection that broke while a statement ran.

    Args:
        error: psycopg's error.
        action: What was being done, such as ``"execute()"``.
        target: Where, and the password to keep out of the text.
        maybe_applied: Whether its COMMIT may have reached the server.
    """
    words = target.redact(error).strip()
    outcome = (
        "The statement may or may not have taken effect: check before you repeat it"
        if maybe_applied
        else "Nothing was committed: run it again"
    )
    return PostgresConnectionError(
        f"{action} lost its connection to {target.description}: {words}. {outcome}",
        sqlstate=error.sqlstate,
        reason="lost",
        maybe_applied=maybe_applied,
    )

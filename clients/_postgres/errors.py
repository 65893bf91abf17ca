"""Turn psycopg's errors into ours: one total mapping, and what each failure means."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg

from .._shared.secrecy import redact
from ..errors import PostgresConnectionError, PostgresError

if TYPE_CHECKING:
    from .settings import Target

__all__ = [
    "connect_error",
    "describe",
    "is_connection_loss",
    "is_hung_up",
    "is_login_refusal",
    "is_read_only",
    "is_refused",
    "is_role_gone",
    "is_starting",
    "lost_error",
    "statement_error",
    "was_terminated_by_server",
]

# A failed connection attempt has no SQLSTATE, only text; the words are libpq's and the server's.
_LOGIN_REFUSED = ("authentication failed", "no password supplied", "not permitted to log in")
_STARTING = ("starting up", "shutting down", "not yet accepting connections", "in recovery mode")
_HUNG_UP = ("server closed the connection unexpectedly", "Connection reset by peer")
_REFUSED = ("Connection refused", *_HUNG_UP)
# https://www.postgresql.org/docs/18/errcodes-appendix.html
_TERMINATED = ("57P01", "57P02", "57P05", "25P03", "25P04")
_CONNECTION_LOSS = ("08", "57P03", *_TERMINATED)
_PROTOCOL_VIOLATION = "08P01"


def is_login_refusal(error: psycopg.Error) -> bool:
    """Return True when the server refused user or password: a fresh credential may help."""
    text = str(error)
    # A role that was dropped is a rotated credential too.
    dropped = 'role "' in text and "does not exist" in text
    return dropped or any(words in text for words in _LOGIN_REFUSED)


def is_starting(error: psycopg.Error) -> bool:
    """Return True when the server is there and says that it will be ready, or gone, in a moment."""
    return any(words in str(error) for words in _STARTING)


def is_refused(error: psycopg.Error) -> bool:
    """Return True when nothing answers at the address, as for a moment during a restart."""
    return any(words in str(error) for words in _REFUSED)


def is_hung_up(error: psycopg.Error) -> bool:
    """Return True when whoever listens hung up; libpq says so of one refusal in ten thousand."""
    return any(words in str(error) for words in _HUNG_UP)


def is_connection_loss(error: psycopg.Error) -> bool:
    """Return True when *error* means that the session is gone."""
    if error.sqlstate == _PROTOCOL_VIOLATION:
        # Placeholders and parameters that do not match; fatal only from a pooler.
        return error.diag.severity_nonlocalized != "ERROR"
    if error.sqlstate is not None:
        return error.sqlstate.startswith(_CONNECTION_LOSS)
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
    return denied or (error.sqlstate == "42704" and "role OID" in str(error))


def connect_error(error: psycopg.Error, target: Target, waited: float) -> PostgresConnectionError:
    """Map a failed connection attempt.

    Args:
        error: psycopg's error.
        target: Where to, and the password to keep out of the text.
        waited: How long it was tried, in seconds.
    """
    words = " ".join(redact(error, target.password).split()) or type(error).__name__
    mend = ""
    if is_login_refusal(error):
        mend = "; check the user and the password, or rotate the secret that holds them"
    elif is_refused(error):
        mend = "; check that the server runs and listens there"
    elif isinstance(error, psycopg.errors.ConnectionTimeout):
        mend = "; nothing answered there: check the address, or raise connect_timeout"
    elif "could not load private key file" in words:
        mend = "; where the key has a password, add sslpassword to the URL"
    return PostgresConnectionError(
        f"cannot connect to PostgreSQL at {target.description} after {waited:.2f} s: {words}{mend}",
        sqlstate=error.sqlstate,
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
    words = redact("; ".join(part for part in details if part), target.password)
    kind = PostgresConnectionError if is_connection_loss(error) else PostgresError
    state = f" (SQLSTATE {error.sqlstate})" if error.sqlstate else ""
    return kind(
        f"{action} failed: {words}{state}",
        sqlstate=error.sqlstate,
        constraint=error.diag.constraint_name,
        table=error.diag.table_name,
    )


def describe(error: Exception) -> str:
    """Return the words of an error that a value's conversion raised."""
    if isinstance(error, psycopg.Error):
        return str(error)
    if isinstance(error, RecursionError):
        return "RecursionError: it is nested too deep for Python"
    return f"{type(error).__name__}: {error}"


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
    words = redact(error, target.password).strip()
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

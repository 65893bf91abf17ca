"""The client's own queries: at construction, and for its health."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

from .._rls.role import find_bypass
from ..errors import (
    ClientError,
    PostgresConfigurationError,
    PostgresConnectionError,
    RlsContextError,
)
from .errors import is_connection_loss, statement_error, unexpected_error
from .identity_key import REFUSED
from .session import BatchError
from .transaction_sql import RESET
from .watchdog import SilenceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from .pool import Pool
    from .session import Session
    from .settings import OnRlsBypass, Target

__all__ = ["answers", "check_role", "check_signing", "on_clean_session"]

T = TypeVar("T")

_SIGNED = (
    "SELECT CASE WHEN pg_catalog.set_config(%(name)s, %(signed)s, true) <> ''"
    " THEN failfast.identity_text(%(name)s) END"
)

_log = logging.getLogger("clients.postgres")


def check_role(
    session: Session, target: Target, on_rls_bypass: OnRlsBypass, local_role: str | None = None
) -> bool:
    """Refuse a role that bypasses row-level security, and notice a pooler in between.

    Args:
        session: The first session.
        target: The server and the role, for messages.
        on_rls_bypass: What to do about such a role.
        local_role: The role that transactions run under; it is checked, too.

    Returns:
        Whether a pooler stands between this client and the server.

    Raises:
        RlsContextError: The role is not bound; with the SQL that fixes it.
        PostgresConfigurationError: There is no *local_role*, or the login may not take it.
        PostgresError: The catalogue cannot be read.
    """
    conn = session.conn
    if local_role is not None:
        _take_role(conn, local_role, target)
    try:
        pid = conn.execute("SELECT pg_catalog.pg_backend_pid() AS pid").fetchone()
        bypasses = [] if on_rls_bypass == "ignore" else find_bypass(conn, local_role)
    except psycopg.Error as error:
        raise statement_error(error, "the role check", target) from error
    if bypasses:
        what = f"row-level security does not bind the role of {target.description}: " + "; ".join(
            str(bypass).removesuffix(";") for bypass in bypasses
        )
        if on_rls_bypass == "error":
            raise RlsContextError(f"{what}; or connect as another role")
        _log.warning("%s", what)
    # A pooler answers the start-up with a number of its own.
    return pid is not None and pid["pid"] != session.pgconn.backend_pid


def check_signing(session: Session, name: str, target: Target) -> None:
    """Refuse a key that the server does not know.

    Args:
        session: The first session.
        name: A setting of the identity.
        target: The server and the role, for messages.

    Raises:
        PostgresConfigurationError: The server refuses what is signed, or has no functions for it.
        PostgresError: It does not answer.
    """
    signatures = session.signatures
    if signatures is None:
        return
    for is_last in (False, True):
        [signed] = signatures.of([name.encode()], [b"signed"])
        try:
            # In a transaction of its own: an autocommit connection's, at whose end it is undone.
            session.conn.execute(_SIGNED, {"name": name, "signed": signed.decode()})
        except psycopg.Error as error:
            if is_connection_loss(error):
                raise statement_error(error, "the check of identity_key", target) from error
            if error.sqlstate == REFUSED and not is_last and signatures.renew():
                continue
            raise PostgresConfigurationError(
                f"identity_key cannot be used at {target.description}: "
                f"{error.diag.message_primary} (SQLSTATE {error.sqlstate}). Apply "
                "sql/optional/signed_identity.sql, set the same key with "
                "failfast.set_identity_key(), and compare the clocks",
                sqlstate=error.sqlstate,
            ) from error
        return


def _take_role(conn: psycopg.Connection[Any], local_role: str, target: Target) -> None:
    try:
        # In a transaction of its own: an autocommit connection's, at whose end it is undone.
        conn.execute("SELECT pg_catalog.set_config('role', %s, true)", (local_role,))
    except psycopg.Error as error:
        if is_connection_loss(error):
            raise statement_error(error, "the role check", target) from error
        raise PostgresConfigurationError(
            f"local_role {local_role!r} cannot be taken by {target.description}: "
            f"{error.diag.message_primary} (SQLSTATE {error.sqlstate}). Create the role, and GRANT "
            "it to the login role",
            sqlstate=error.sqlstate,
        ) from error


def answers(pool: Pool, method: str) -> bool:
    """Check that the server answers: over a pooled session, or one of its own where all are busy.

    Args:
        pool: Where the sessions come from.
        method: The public method's name, for messages.

    Returns:
        Whether it did.

    Raises:
        PostgresError: It did not; with the reason.
    """
    if not pool.is_busy():
        # The reset before every query proves that the server answers.
        return on_clean_session(pool, method, lambda session: session.reusable)
    try:
        session = pool.connect_aside()
    except PostgresConnectionError as error:
        if error.reason == "exhausted":
            return True  # it says so itself, and the pool's own sessions are at work
        raise
    try:
        session.run_batch((RESET,))
    except BatchError as failure:
        raise statement_error(failure.error, f"{method}()", pool.target) from failure.error
    finally:
        session.close()
    return True


def on_clean_session(pool: Pool, method: str, question: Callable[[Session], T]) -> T:
    """Run a query over a clean pooled session, outside any user's transaction.

    Args:
        pool: Where the session comes from.
        method: The public method's name, for messages.
        question: Runs the query, and returns the answer.

    Raises:
        PostgresError: No session could be had, or the server did not answer.
    """
    for tries_left in range(pool.max_size, -1, -1):
        session = pool.checkout()
        try:
            # What a function called by the last borrower has set must not change the result.
            session.run_batch((RESET,))
            return question(session)
        except BatchError as failure:
            error = failure.error
            # The session may have been killed this moment, or be past resetting: that says
            # nothing of the server.
            of_session = failure.index == 0 or is_connection_loss(error)
            if not tries_left or not of_session or isinstance(error, SilenceError):
                raise statement_error(error, f"{method}()", pool.target) from error
        except psycopg.Error as error:
            raise statement_error(error, f"{method}()", pool.target) from error
        except ClientError:
            raise
        except Exception as error:
            raise unexpected_error(error, f"{method}()", maybe_applied=False) from error
        finally:
            pool.give_back(session)
    raise AssertionError("the last try returns or raises")

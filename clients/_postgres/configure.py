"""``configure=``: the caller's own preparation of each new connection, before it is lent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from psycopg.pq import TransactionStatus

from .._shared.validation import checked_callable
from ..errors import ClientError, PostgresConfigurationError
from .errors import describe

if TYPE_CHECKING:
    from collections.abc import Callable

    import psycopg

    from .session import Session

    Configure: TypeAlias = "Callable[[psycopg.Connection[Any]], object]"

__all__ = ["checked_configure", "configure_session"]

_SETTINGS = b"SELECT name, setting FROM pg_catalog.pg_settings WHERE source = 'session'"


def checked_configure(configure: Configure | None) -> Configure | None:
    """Return *configure*.

    Raises:
        PostgresConfigurationError: It is neither None nor a callable.
    """
    if configure is None:
        return None
    return checked_callable(
        "configure", configure, PostgresConfigurationError, that="takes a connection"
    )


def configure_session(session: Session, configure: Configure, *, compares: bool) -> None:
    """Run *configure* on a new connection, and close it when that is not left as it was.

    Args:
        session: The new connection.
        configure: What the caller wants done, such as registering types.
        compares: Whether to look for settings that it changed, which the reset before each
            borrower would undo; it costs two queries.

    Raises:
        PostgresConfigurationError: It failed, left a transaction open, or changed a setting.
    """
    try:
        before = _settings(session) if compares else {}
        _run(session, configure)
        if compares:
            _refuse_changes(before, _settings(session))
    except BaseException:
        session.close()
        raise


def _run(session: Session, configure: Configure) -> None:
    conn = session.conn
    try:
        configure(conn)
    except ClientError:
        raise
    except Exception as error:
        raise PostgresConfigurationError(
            f"configure() failed on a new connection: {type(error).__name__}: {describe(error)}"
        ) from error
    if session.transaction_status != TransactionStatus.IDLE or not conn.autocommit:
        raise PostgresConfigurationError(
            "configure() left a transaction open, or autocommit off: end what it begins"
        )


def _refuse_changes(before: dict[str, str], after: dict[str, str]) -> None:
    if changed := sorted(name for name, _ in after.items() - before.items()):
        raise PostgresConfigurationError(
            f"configure() changed {', '.join(changed)}, which is reset before each borrower: use "
            "ALTER ROLE ... SET, or options= in the URL"
        )


def _settings(session: Session) -> dict[str, str]:
    [result] = session.message(_SETTINGS)
    return {
        (result.get_value(row, 0) or b"").decode(): (result.get_value(row, 1) or b"").decode()
        for row in range(result.ntuples)
    }

"""``configure=``: the caller's own preparation of each new connection, before it is lent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import psycopg
from psycopg.pq import TransactionStatus

from .._shared.validation import checked_callable
from ..errors import ClientError, PostgresConfigurationError
from .errors import describe
from .statements import text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from psycopg.abc import Params

    from .session import Session

    Configure: TypeAlias = "Callable[[psycopg.Connection[Any]], object]"

__all__ = ["checked_configure", "configure_session"]

# What DISCARD ALL undoes and can be listed.
_SESSION_STATE = b"""
SELECT name, setting FROM pg_catalog.pg_settings WHERE source = 'session'
UNION ALL SELECT 'role', pg_catalog.current_setting('role')
UNION ALL SELECT 'session_authorization', session_user
UNION ALL SELECT 'LISTEN ' || channel, '' FROM pg_catalog.pg_listening_channels() AS channel
UNION ALL SELECT 'the temporary table ' || relname, '' FROM pg_catalog.pg_class
    WHERE relnamespace = pg_catalog.pg_my_temp_schema() AND relkind IN ('r', 'p', 'v', 'f')
UNION ALL SELECT 'the temporary sequence ' || relname, '' FROM pg_catalog.pg_class
    WHERE relnamespace = pg_catalog.pg_my_temp_schema() AND relkind = 'S'
UNION ALL SELECT 'the temporary function ' || proname, '' FROM pg_catalog.pg_proc
    WHERE pronamespace = pg_catalog.pg_my_temp_schema()
UNION ALL SELECT 'the temporary type ' || t.typname, '' FROM pg_catalog.pg_type AS t
    LEFT JOIN pg_catalog.pg_class AS c ON c.oid = t.typrelid
    WHERE t.typnamespace = pg_catalog.pg_my_temp_schema()
    AND (t.typtype IN ('d', 'e', 'r') OR c.relkind = 'c')
UNION ALL SELECT 'an advisory lock', '' FROM pg_catalog.pg_locks
    WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid()
UNION ALL SELECT 'the cursor ' || name, '' FROM pg_catalog.pg_cursors WHERE is_holdable
UNION ALL SELECT 'the prepared statement ' || name, '' FROM pg_catalog.pg_prepared_statements
    WHERE from_sql
"""
# An application's own settings are in no list: they are found by the names in the statements.
_OWN_NAME = re.compile(r"[^\W\d][\w$]*(?:\.[^\W\d][\w$]*)+")
_OWN_SETTINGS = """
SELECT name, pg_catalog.current_setting(name, true) AS setting
FROM pg_catalog.unnest(%s::text[]) AS name
"""
# What psycopg would begin its own transactions with, and make its own cursors by.
_ATTRIBUTES = (
    "autocommit",
    "cursor_factory",
    "deferrable",
    "isolation_level",
    "prepare_threshold",
    "read_only",
    "row_factory",
    "server_cursor_factory",
)


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
        compares: Whether to look for what the reset before each borrower would undo; it costs two
            queries, and two more where *configure* names what may be an application's setting.

    Raises:
        PostgresConfigurationError: It failed, left a transaction open, or changed what it must not.
    """
    try:
        if compares:
            _run_and_compare(session, configure)
        else:
            _run(session, configure)
    except BaseException:
        session.close()
        raise


def _run(session: Session, configure: Configure) -> None:
    conn = session.conn
    before = {name: getattr(conn, name) for name in _ATTRIBUTES}
    try:
        configure(conn)
    except ClientError:
        raise
    except Exception as error:
        raise PostgresConfigurationError(
            f"configure() failed on a new connection: {describe(error)}"
        ) from error
    if conn.closed:
        raise PostgresConfigurationError("configure() closed the connection, or lost it")
    if session.transaction_status != TransactionStatus.IDLE:
        raise PostgresConfigurationError("configure() left a transaction open: end what it begins")
    if changed := [name for name in _ATTRIBUTES if getattr(conn, name) != before[name]]:
        raise PostgresConfigurationError(
            f"configure() changed {', '.join(changed)} of the connection, which the client needs "
            "as it is: leave it, and name isolation= and read_only= where a transaction begins"
        )


def _run_and_compare(session: Session, configure: Configure) -> None:
    names: set[str] = set()

    class NotingCursor(psycopg.Cursor[Any]):
        """Notes what may be the name of a setting."""

        def execute(self, query: Any, params: Params | None = None, **options: Any) -> Self:
            values = params.values() if isinstance(params, Mapping) else params or ()
            for text in (text_of(query), *filter(_is_text, values)):
                names.update(_OWN_NAME.findall(text))
            return super().execute(query, params, **options)

    conn = session.conn
    factory, conn.cursor_factory = conn.cursor_factory, NotingCursor
    before = _state(session)
    _run(session, configure)
    conn.cursor_factory = factory
    changed = [name for name, _ in _state(session).items() - before.items()]
    if not changed and names:
        after = _own_settings(session, names)
        session.message(b"RESET ALL")
        changed = [name for name, _ in after.items() - _own_settings(session, names).items()]
    if changed:
        raise PostgresConfigurationError(
            f"configure() left behind {', '.join(sorted(changed))}, which is undone before each "
            "borrower: for a setting, use ALTER ROLE ... SET, or options= in the URL"
        )


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _state(session: Session) -> dict[str, str]:
    [result] = session.message(_SESSION_STATE)
    return {
        (result.get_value(row, 0) or b"").decode(): (result.get_value(row, 1) or b"").decode()
        for row in range(result.ntuples)
    }


def _own_settings(session: Session, names: Iterable[str]) -> dict[str, str]:
    rows = session.conn.execute(_OWN_SETTINGS, (list(names),)).fetchall()
    return {str(row["name"]): str(row["setting"] or "") for row in rows}

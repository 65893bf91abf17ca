"""What a new client finds out about the server, once, over its first session."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import psycopg

from clients._postgres_errors import statement_error
from clients._rls_role import find_bypass
from clients.errors import RlsContextError

if TYPE_CHECKING:
    from clients._postgres_flight import Session
    from clients._postgres_settings import OnRlsBypass, Target

__all__ = ["look_at"]

logger = logging.getLogger("clients.postgres")


def look_at(session: Session, target: Target, on_rls_bypass: OnRlsBypass) -> bool:
    """Refuse a role that bypasses row-level security, and notice a pooler in between.

    Args:
        session: The first session.
        target: The server and the role, for messages.
        on_rls_bypass: What to do about such a role.

    Returns:
        Whether a pooler stands between this client and the server.

    Raises:
        RlsContextError: The role is not bound; with the SQL that mends it.
        PostgresError: The catalogue cannot be read.
    """
    conn = session.conn
    try:
        pid = conn.execute("SELECT pg_backend_pid() AS pid").fetchone()
        bypasses = [] if on_rls_bypass == "ignore" else find_bypass(conn)
    except psycopg.Error as error:
        raise statement_error(error, "the role check", target) from error
    if bypasses:
        what = f"row-level security does not bind the role of {target.description}: " + "; ".join(
            map(str, bypasses)
        )
        if on_rls_bypass == "error":
            raise RlsContextError(f"{what}; or connect as another role")
        logger.warning("%s", what)
    # A pooler answers the start-up with a number of its own.
    return pid is not None and pid["pid"] != session.pgconn.backend_pid

"""Two tables with a row of a victim, one under the plain identity and one under the signed one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from tests.postgres_faults import superuser

if TYPE_CHECKING:
    from utils._stack.postgres import PostgresServer

__all__ = ["MALLORY", "SECRET", "SETTING", "VICTIM", "SignedDatabase", "make_signed", "sign_policy"]

SETTING = "app.current_user_id"
VICTIM = UUID("00000000-0000-4000-8000-00000000000a")
MALLORY = UUID("00000000-0000-4000-8000-00000000000e")
SECRET = "what only the victim may read"
_SQL = Path(__file__).parents[1] / "sql" / "optional" / "signed_identity.sql"
_TABLE = """
DROP TABLE IF EXISTS {name};
CREATE TABLE {name} (user_id uuid NOT NULL, body text NOT NULL);
INSERT INTO {name} VALUES ('{victim}', '{secret}'), ('{mallory}', 'of Mallory');
ALTER TABLE {name} ENABLE ROW LEVEL SECURITY;
ALTER TABLE {name} FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO crm_user;
CREATE POLICY own ON {name} FOR ALL USING (user_id = (SELECT {read}))
    WITH CHECK (user_id = (SELECT {read}));
ANALYZE {name};
"""
_READS = {
    "plain_notes": f"NULLIF(current_setting('{SETTING}', true), '')::uuid",
    "signed_notes": f"failfast.identity_uuid('{SETTING}')",
}


class SignedDatabase(NamedTuple):
    """A database with both tables.

    Args:
        server: The server.
        key: The key of the identity.
    """

    server: PostgresServer
    key: bytes

    def rows(self, table: str) -> list[tuple[str, str]]:
        """Return all rows, whoever's."""
        with superuser(self.server) as conn:
            query = f"SELECT user_id::text, body FROM {table} ORDER BY 1, 2"
            return conn.execute(query.encode()).fetchall()

    def restore(self, table: str) -> None:
        """Put the rows of both back."""
        with superuser(self.server) as conn:
            conn.execute(
                f"TRUNCATE {table}; INSERT INTO {table} VALUES ('{VICTIM}', '{SECRET}'),"
                f" ('{MALLORY}', 'of Mallory')".encode()
            )


def make_signed(server: PostgresServer) -> SignedDatabase:
    """Apply the optional SQL with a new key, and make both tables."""
    key = os.urandom(32)
    with superuser(server) as conn:
        conn.execute("DROP SCHEMA IF EXISTS failfast CASCADE")
        for _ in range(2):  # safe to apply twice
            conn.execute(_SQL.read_bytes())
        conn.execute("SELECT failfast.set_identity_key(1, %s)", (key,))
        conn.execute("ANALYZE failfast.identity_keys")
        for name, read in _READS.items():
            text = _TABLE.format(
                name=name, read=read, victim=VICTIM, mallory=MALLORY, secret=SECRET
            )
            conn.execute(text.encode())
    return SignedDatabase(server, key)


def sign_policy(server: PostgresServer, table: str, column: str = "user_id") -> None:
    """Let one of the project's tables read the signed identity."""
    clause = f"({column} = (SELECT failfast.identity_uuid('{SETTING}')))"
    with superuser(server) as conn:
        conn.execute(
            f"ALTER POLICY user_isolation ON {table} USING {clause} WITH CHECK {clause}".encode()
        )

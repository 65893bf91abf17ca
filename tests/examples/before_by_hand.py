"""Before: psycopg_pool, hvac and redis-py, by hand. ``after_clients.py`` does the same.

It works as long as nothing happens. The password is read once, so a rotation needs a restart. The
setting outlives the transaction, so a query that sets no user sees the rows of the last one. A
restart of PostgreSQL costs one failed request for each idle connection.
"""

from __future__ import annotations

import os
from typing import Any

import hvac
import redis
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool

__all__ = ["Service"]


class Service:
    """The contacts of each user, and how many requests there were."""

    def __init__(self) -> None:
        vault = hvac.Client(os.environ["VAULT_ADDR"], os.environ["VAULT_TOKEN"])
        read = vault.secrets.kv.v2.read_secret_version
        secrets = {
            name: read(f"crm/{name}", raise_on_deleted_version=True)["data"]["data"]
            for name in ("database", "valkey")
        }
        self._pool: ConnectionPool[Any] = ConnectionPool(
            secrets["database"]["url"], min_size=1, max_size=10, open=True
        )
        self._pool.wait()
        self._valkey = redis.Redis.from_url(secrets["valkey"]["url"], decode_responses=True)

    def add(self, user_id: str, name: str) -> None:
        """Store a contact."""
        with self._pool.connection() as conn:
            conn.execute("SELECT set_config('app.current_user_id', %s, false)", (user_id,))
            conn.execute("INSERT INTO contacts (user_id, name) VALUES (%s, %s)", (user_id, name))

    def names(self, user_id: str | None) -> list[str]:
        """Return the names of the user's contacts."""
        with self._pool.connection() as conn:
            if user_id is not None:
                conn.execute("SELECT set_config('app.current_user_id', %s, false)", (user_id,))
            cursor = conn.cursor(row_factory=dict_row)
            rows = cursor.execute("SELECT name FROM contacts ORDER BY name").fetchall()
            return [row["name"] for row in rows]

    def count_request(self, key: str) -> int:
        """Return how many requests there were in this minute."""
        count = self._valkey.incr(key)
        if count == 1:
            self._valkey.expire(key, 60)  # never reached if the process ends here
        return int(str(count))

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()
        self._valkey.close()

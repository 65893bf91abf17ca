"""After: the service of ``before_by_hand.py``. Its callers stay as they are.

The password is read again when a connection is made, so a rotation costs nothing. The user ends
with the statement, and a query without one raises RlsContextError. Idle connections are checked
before they are used. ``incr`` sets the expiry in the same step.
"""

from __future__ import annotations

from clients import build_clients

__all__ = ["Service"]


class Service:
    """The contacts of each user, and how many requests there were."""

    def __init__(self) -> None:
        self._clients = build_clients(pool_size=10, min_size=1)

    def add(self, user_id: str, name: str) -> None:
        """Store a contact."""
        query = "INSERT INTO contacts (user_id, name) VALUES (%s, %s)"
        self._clients.postgres.execute(query, (user_id, name), user_id)

    def names(self, user_id: str | None) -> list[str]:
        """Return the names of the user's contacts."""
        query = "SELECT name FROM contacts ORDER BY name"
        return [row["name"] for row in self._clients.postgres.execute(query, (), user_id)]

    def count_request(self, key: str) -> int:
        """Return how many requests there were in this minute."""
        return self._clients.valkey.incr(key, expire_seconds=60)

    def close(self) -> None:
        """Close all connections."""
        self._clients.close()

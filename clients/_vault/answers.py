"""What Vault's answers say; None where an answer has another shape than Vault would give it.

The callers keep whole answers out of their frames: error reporters collect local variables.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from .settings import Masked

if TYPE_CHECKING:
    from .transport import Body

__all__ = [
    "DEEPEST",
    "DatabaseCredential",
    "TokenLife",
    "credential_in",
    "secret_in",
    "token_life_in",
    "written_at",
]

DEEPEST = 300


@dataclass(frozen=True, slots=True)
class TokenLife:
    """A token's age and what is left of it, in seconds; infinity for one that never ends."""

    age: float
    remaining: float


@dataclass(frozen=True, slots=True)
class DatabaseCredential:
    """What the database secrets engine gave.

    Args:
        lease_id: Its lease; empty for a static role, which has none.
        user: The user's name.
        secret: The password.
        ttl: Seconds until the lease ends, or until a static role's next rotation.
        age: Seconds since it was made, or since a static role's last rotation.
        renewable: Whether the lease can be renewed.
    """

    lease_id: str
    user: str
    secret: Masked
    ttl: float
    age: float
    renewable: bool


def secret_in(body: Body) -> dict[str, Any] | None:
    """Return the fields of a KV version 2 secret, of ``DEEPEST`` levels at most."""
    data = body.get("data")
    secret = data.get("data") if isinstance(data, dict) else None
    return secret if isinstance(secret, dict) and _is_shallow(secret) else None


def _is_shallow(value: object) -> bool:
    # Python could neither copy nor print what is nested much deeper.
    level = [value]
    for _ in range(DEEPEST):
        level = [
            child
            for one in level
            if isinstance(one, dict | list)
            for child in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return True
    return False


def written_at(body: Body) -> float | None:
    """Return when a KV version 2 secret was written, in seconds since the epoch."""
    try:
        return datetime.fromisoformat(body["data"]["metadata"]["created_time"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return None


def token_life_in(body: Body) -> TokenLife | None:
    """Return the life of a token that was looked up."""
    data = body.get("data")
    if not isinstance(data, dict):
        return None
    made, ttl = data.get("creation_time"), data.get("ttl")
    age = max(0.0, time.time() - made) if isinstance(made, int | float) else 0.0
    # 0 is a token that never ends.
    return TokenLife(age, ttl if isinstance(ttl, int | float) and ttl else float("inf"))


def credential_in(body: Body) -> DatabaseCredential | None:
    """Return the user and the password of a database role."""
    data = body.get("data")
    if not isinstance(data, dict):
        return None
    user, secret = data.get("username"), data.get("password")
    lease_id = body.get("lease_id") or ""
    ttl = body.get("lease_duration") if lease_id else data.get("ttl")
    if not (isinstance(user, str) and isinstance(secret, str) and isinstance(ttl, int | float)):
        return None
    # A static role tells how long its password is good from one rotation to the next.
    period = data.get("rotation_period")
    age = max(0.0, period - ttl) if isinstance(period, int | float) else 0.0
    renewable = bool(body.get("renewable"))
    return DatabaseCredential(lease_id, user, Masked(secret), float(ttl), age, renewable)

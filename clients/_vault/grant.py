"""What Vault gives for a while, and when to see to it: a login's token, a credential's lease."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .settings import Masked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .transport import Body

__all__ = ["Grant", "Lease", "grant_in", "refresh_part"]

#: The part of its life after which a token or a lease is renewed or replaced; random, so that a
#: fleet of processes that started together does not log in together for ever.
_REFRESH_AT = (0.60, 0.70)
#: The part of its life until which a token is shown to the server.
_USABLE_UNTIL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A token and how long it lives, on the monotonic clock.

    Args:
        token: The token.
        generation: Counts logins; a renewed token keeps its number.
        refresh_at: When to renew or replace it.
        usable_until: When to show it no longer.
        issued_at: When it was asked for at first; for the caller's own, when it was made.
        ends_at: When it ends, and with it all that hangs on it.
        ttl: The seconds that it was given.
        renewable: Whether a renewal can make it live longer.
        policies: The names of its policies; what is in them is looked up with each request.
        uses: Gives one item for each request that it is good for; None when they are unlimited.
    """

    token: Masked
    generation: int = 0
    refresh_at: float = float("inf")
    usable_until: float = float("inf")
    issued_at: float = field(default_factory=time.monotonic)
    ends_at: float = float("inf")
    ttl: float = 0.0
    renewable: bool = False
    policies: frozenset[str] = frozenset()
    uses: Iterator[int] | None = field(default=None, compare=False)

    def spend(self) -> bool:
        """Take one of its uses; return False when there is none left."""
        return self.uses is None or next(self.uses, None) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A user and a password, and how long they work, on the monotonic clock.

    Args:
        lease_id: Its name at Vault; empty for a static role, which has no lease.
        user: The user's name.
        secret: The password.
        issued_at: When it was given, or its password last rotated.
        refresh_at: When to renew or replace it.
        ends_at: When it ends: its own end, or that of the token that it hangs on.
        full_ttl: The seconds that it was given at first.
        renewable: Whether a renewal can make it live longer.
        generation: The login whose token it hangs on.
    """

    lease_id: str
    user: str
    secret: Masked
    issued_at: float
    refresh_at: float
    ends_at: float
    full_ttl: float
    renewable: bool
    generation: int


def refresh_part() -> float:
    """Return the part of its life after which one token or lease is to be seen to."""
    return random.uniform(*_REFRESH_AT)  # noqa: S311 - no secret depends on it


def grant_in(body: Body, asked_at: float, generation: int) -> Grant | None:
    """Return what the answer to a login or a renewal gives; None when there is no token in it."""
    auth = body.get("auth")
    if not isinstance(auth, dict):
        return None
    token, ttl, uses = auth.get("client_token"), auth.get("lease_duration"), auth.get("num_uses")
    if not isinstance(token, str) or not isinstance(ttl, int | float):
        return None
    if not token or not all("!" <= char <= "~" for char in token):
        return None  # no header can carry it
    life = float(ttl) or float("inf")  # of 0: it never expires
    return Grant(
        token=Masked(token),
        generation=generation,
        refresh_at=asked_at + life * refresh_part(),
        usable_until=asked_at + life * _USABLE_UNTIL,
        issued_at=asked_at,
        ends_at=asked_at + life,
        ttl=float(ttl),
        renewable=bool(auth.get("renewable")),
        policies=frozenset(map(str, auth.get("policies") or ())),
        # One step of an iterator is atomic, also between threads.
        uses=iter(range(uses)) if isinstance(uses, int) and uses > 0 else None,
    )

"""A token and how long it lives: taken from the answer to a login, a renewal or a look-up."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .._shared.jitter import between
from .._shared.secrecy import Masked
from ..errors import VaultAuthenticationError
from .api import is_duration, lookup_self, token_life_in
from .errors import Operation, not_vault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .retry import Deadline
    from .transport import Body, VaultAdapter, VaultTransport

__all__ = ["USABLE_UNTIL", "Grant", "grant_in", "owners_grant", "refresh_part", "request_token"]

#: The part of its life after which a token or a lease is renewed or replaced; random, so that a
#: fleet of processes that started together does not log in together for ever.
_REFRESH_AT = (0.60, 0.70)
#: The part of its life until which a token is shown to the server.
USABLE_UNTIL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A token and how long it lives, on the monotonic clock.

    Args:
        token: The token; None where an agent adds its own.
        generation: Counts logins; a renewed token keeps its number.
        refresh_at: When to renew or replace it.
        usable_until: When to show it no longer.
        issued_at: When it was first requested; for the caller's own, when it was made.
        ends_at: When it ends, and with it all that hangs on it.
        ttl: The seconds that it was given.
        renewable: Whether a renewal can make it live longer.
        policies: The names of its policies; what is in them is looked up with each request.
        uses: Gives one item for each request that it is good for; None when they are unlimited.
    """

    token: Masked | None
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


def refresh_part() -> float:
    """Return the part of its life after which a token or lease is renewed or replaced."""
    return between(*_REFRESH_AT)


def grant_in(body: Body, asked_at: float, generation: int) -> Grant | None:
    """Return what the answer to a login or a renewal gives; None when there is no token in it."""
    auth = body.get("auth")
    if not isinstance(auth, dict):
        return None
    token, ttl, uses = auth.get("client_token"), auth.get("lease_duration"), auth.get("num_uses")
    if not isinstance(token, str) or not is_duration(ttl):
        return None
    policies = auth.get("policies")
    if not token or not all("!" <= char <= "~" for char in token):
        return None  # no header can carry it
    life = float(ttl) or float("inf")  # of 0: it never expires
    return Grant(
        token=Masked(token),
        generation=generation,
        refresh_at=asked_at + life * refresh_part(),
        usable_until=asked_at + life * USABLE_UNTIL,
        issued_at=asked_at,
        ends_at=asked_at + life,
        ttl=float(ttl),
        renewable=bool(auth.get("renewable")),
        policies=frozenset(map(str, policies if isinstance(policies, list) else ())),
        # One step of an iterator is atomic, also between threads.
        uses=iter(range(uses)) if isinstance(uses, int) and uses > 0 else None,
    )


def request_token(
    transport: VaultTransport,
    operation: Operation,
    send: Callable[[VaultAdapter], Body],
    *,
    generation: int,
    clock: Callable[[], float],
    **options: Any,
) -> Grant:
    """Return the token that a login or a renewal gives.

    Args:
        transport: What sends the request.
        operation: What is requested, for messages.
        send: Makes the request.
        generation: The token's number.
        clock: Seconds that only go forward.
        options: As for ``VaultTransport.call``.

    Raises:
        VaultError: Whatever went wrong.
    """
    asked_at = clock()
    # The answer is kept out of this frame: in an unexpected shape it is a secret all the same.
    grant = grant_in(transport.call(operation, send, **options), asked_at, generation)
    if grant is None:
        raise not_vault(operation, "HTTP 200 without a token")
    return grant


def owners_grant(
    transport: VaultTransport,
    operation: Operation,
    token: Masked | None,
    *,
    deadline: Deadline,
    generation: int = 0,
    clock: Callable[[], float] = time.monotonic,
    retries: int | None = None,
) -> Grant:
    """Look up a token that another program obtained and renews.

    One that may not look itself up passes, for a read is the proof; its end stays unknown.

    Raises:
        VaultAuthenticationError: It is invalid, expired or revoked.
        VaultError: Vault could not be reached.
    """
    asked_at = clock()
    grant = Grant(token=token, generation=generation, issued_at=asked_at)
    try:
        # The answer is kept out of this frame: it repeats the token.
        known = token_life_in(
            transport.call(operation, lookup_self, deadline=deadline, token=token, retries=retries)
        )
    except VaultAuthenticationError as refusal:
        if refusal.reason != "permission_denied":
            raise
        return grant
    if known is None:
        raise not_vault(operation, "HTTP 200 without a token's data")
    return replace(grant, issued_at=asked_at - known.age, ends_at=asked_at + known.remaining)

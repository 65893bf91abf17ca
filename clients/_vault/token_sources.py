"""Where a call's token comes from; here, from the caller."""

from __future__ import annotations

import copy
import logging
import random
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .._shared.rotating_url import CredentialLife
from .._shared.secrecy import Masked
from ..errors import VaultAuthenticationError, VaultError
from .api import is_duration, lookup_self, token_life_in
from .errors import Operation, not_vault
from .wrapping import unwrapped_token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .retry import Deadline
    from .transport import Body, VaultAdapter, VaultTransport

__all__ = [
    "USABLE_UNTIL",
    "AgentTokens",
    "Grant",
    "StaticToken",
    "TokenSource",
    "WrappedToken",
    "ask_for_token",
    "grant_in",
    "owners_grant",
    "refresh_part",
]

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
        issued_at: When it was asked for at first; for the caller's own, when it was made.
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
    """Return the part of its life after which one token or lease is to be seen to."""
    return random.uniform(*_REFRESH_AT)  # noqa: S311 - no secret depends on it


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


def ask_for_token(
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


_log = logging.getLogger("clients.vault")


class TokenSource(ABC):
    """Gives the token for a call."""

    _grant: Grant | None = None

    @abstractmethod
    def current(self, deadline: Deadline) -> Grant:
        """Return a token that should work, getting or renewing it where needed."""

    @abstractmethod
    def replacement(
        self, refused: Grant, refusal: VaultAuthenticationError, deadline: Deadline
    ) -> Grant | None:
        """Return another token after *refused* got a 403; None when that would not help."""

    def accepted(self, grant: Grant) -> None:  # noqa: B027 - only a source of many tokens cares
        """Note that the server took the token of *grant*."""

    def denied(self, grant: Grant) -> None:  # noqa: B027 - likewise
        """Note that a policy denies what the token of *grant* was shown for."""

    @abstractmethod
    def verify(self, deadline: Deadline) -> None:
        """Raise when there is clearly no working token."""

    def looked_up(self, grant: Grant, deadline: Deadline) -> Grant:
        """Return *grant* as it stands now; its owner may have renewed it."""
        del deadline
        return grant

    def counts(self) -> tuple[int, int]:
        """Return the numbers of logins and of renewals that this source has made."""
        return 0, 0

    def explained(self, error: VaultError) -> VaultError:
        """Return the error of a request with what the way to log in adds to it."""
        return error

    def life(self) -> CredentialLife:
        """Return the age of the present token, and how long it still lives unless renewed."""
        grant = self._grant
        if grant is None:
            return CredentialLife(0.0, 0.0)
        return CredentialLife.between(grant.issued_at, grant.ends_at)

    @abstractmethod
    def revoke(self) -> None:
        """Give back what was obtained here."""


class StaticToken(TokenSource):
    """The caller's own token: neither renewed nor revoked by us.

    Args:
        transport: Where to ask about it.
        token: The token.
    """

    def __init__(self, transport: VaultTransport, token: Masked | None) -> None:
        self._transport = transport
        self._grant: Grant = Grant(token=token)

    def current(self, deadline: Deadline) -> Grant:
        """Return the token."""
        del deadline
        return self._grant

    def replacement(
        self, refused: Grant, refusal: VaultAuthenticationError, deadline: Deadline
    ) -> Grant | None:
        """Return None: there is no other token."""

    def verify(self, deadline: Deadline) -> None:
        """Look the token up; one that may not look itself up passes, for a read is the proof.

        Raises:
            VaultAuthenticationError: It is invalid, expired or revoked.
        """
        self._grant = owners_grant(
            self._transport, self._operation(), self._grant.token, deadline=deadline
        )

    def looked_up(self, grant: Grant, deadline: Deadline) -> Grant:
        """Return the token with its present end, where it may look itself up."""
        del grant
        try:
            self.verify(deadline)
        except VaultError as error:
            _log.debug("the token's new end is not known: %s", error)
        return self._grant

    def revoke(self) -> None:
        """Do nothing: the token is the caller's."""

    def _operation(self) -> Operation:
        return Operation(kind="token", text="verify the token", addr=self._transport.options.addr)


class WrappedToken(StaticToken):
    """The caller's own token, which comes response-wrapped.

    Args:
        transport: Where to unwrap it.
        wrapping: The wrapping token.
    """

    def __init__(self, transport: VaultTransport, wrapping: Masked) -> None:
        super().__init__(transport, None)
        self._wrapping = wrapping

    def current(self, deadline: Deadline) -> Grant:
        """Return the token; the first call of the process unwraps it.

        Raises:
            VaultError: As for ``unwrapped_token``.
        """
        if self._grant.token is None:
            self._grant = Grant(token=unwrapped_token(self._transport, self._wrapping, deadline))
        return self._grant

    def verify(self, deadline: Deadline) -> None:
        """Unwrap the token, and look it up.

        Raises:
            VaultError: It cannot be unwrapped, or is invalid, expired or revoked.
        """
        self.current(deadline)
        super().verify(deadline)


#: Seconds that an agent, whose token was refused, has to log in again.
_AGENT_PAUSE = 0.25


class AgentTokens(StaticToken):
    """The token that an agent adds to each request; this client never sees it.

    Args:
        transport: The way to the agent.
    """

    def __init__(self, transport: VaultTransport) -> None:
        super().__init__(transport, None)

    def replacement(
        self, refused: Grant, refusal: VaultAuthenticationError, deadline: Deadline
    ) -> Grant | None:
        """Return the same grant once: the agent may have another token in a moment."""
        if refusal.reason == "permission_denied" or deadline.remaining() <= _AGENT_PAUSE:
            return None
        time.sleep(_AGENT_PAUSE)
        return refused

    def life(self) -> CredentialLife:
        """Return the life of the token that the agent added at construction, while it lasts.

        After that the agent adds another one, whose end it does not tell.
        """
        life = super().life()
        return life if life.remaining else replace(life, remaining=None)

    def explained(self, error: VaultError) -> VaultError:
        """Return the error with which of the two it was: the agent, or the server behind it."""
        if error.reason == "unreachable":
            told = "that is the agent itself: see whether it runs"
        elif error.reason in {"timeout", "server_error"}:
            told = "the agent answers, or at least listens: check the server behind it"
        elif error.reason == "token_invalid":
            told = (
                "the agent adds no token that Vault knows: see that it has logged in, and that "
                "its use_auto_auth_token is true"
            )
        else:
            return error
        named = copy.copy(error)
        named.args = (f"{error}; {told}", *error.args[1:])
        named.__cause__ = error.__cause__
        return named

    def _operation(self) -> Operation:
        return Operation(
            kind="token",
            text="verify the token that the agent adds",
            addr=self._transport.options.addr,
        )

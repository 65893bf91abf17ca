"""Where a call's token comes from: given by the caller, or got and kept alive by AppRole logins.

No background thread: a call that finds the token old sees to it, and all others go on.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from clients._credentials import CredentialLife
from clients._vault_answers import auth_in, token_life_in
from clients._vault_api import approle_login, lookup_self, renew_self, revoke_self
from clients._vault_errors import Operation, not_vault
from clients._vault_retry import Deadline
from clients.errors import VaultAuthenticationError, VaultConnectionError, VaultError

if TYPE_CHECKING:
    from collections.abc import Callable

    from clients._vault_settings import Masked
    from clients._vault_transport import Body, VaultAdapter, VaultTransport

__all__ = ["AppRoleTokens", "Grant", "StaticToken", "TokenSource", "token_source"]

#: The part of its life after which a token is renewed or replaced; random, so that a fleet of
#: processes that started together does not log in together for ever.
_REFRESH_AT = (0.60, 0.70)
#: The part of its life until which a token is shown to the server.
_USABLE_UNTIL = 0.95
#: Seconds between two logins that only a denial asked for: a role's new policies are seen that
#: soon, and a path that stays denied costs no more than that.
_DENIAL_PAUSE = 60.0
_REVOKE_TIMEOUT = 2.0
#: Seconds between two failed tries to refresh a token that still lives.
_SHORTEST_REFRESH_PAUSE = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A token and how long it lives, on the monotonic clock.

    Args:
        token: The token.
        generation: Counts logins; a renewed token keeps its number.
        refresh_at: When to renew or replace it.
        usable_until: When to show it no longer.
        issued_at: When it was asked for at first; for the caller's own, when we saw it first.
        ends_at: When it ends, and with it all that hangs on it.
        full_ttl: The seconds that it was given at login.
        renewable: Whether a renewal can make it live longer.
    """

    token: Masked
    generation: int = 0
    refresh_at: float = float("inf")
    usable_until: float = float("inf")
    issued_at: float = field(default_factory=time.monotonic)
    ends_at: float = float("inf")
    full_ttl: float = 0.0
    renewable: bool = False


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
        """Return another token after *refused* got a 403; None when that would mend nothing."""

    def accepted(self, grant: Grant) -> None:  # noqa: B027 - only a source of many tokens cares
        """Note that the server took the token of *grant*."""

    @abstractmethod
    def verify(self, deadline: Deadline) -> None:
        """Raise when there is clearly no working token."""

    def looked_up(self, grant: Grant, deadline: Deadline) -> Grant:
        """Return *grant* as it stands now; its owner may have renewed it."""
        del deadline
        return grant

    def life(self) -> CredentialLife:
        """Return the age of the present token, and how long it still lives unless renewed."""
        grant = self._grant
        if grant is None:
            return CredentialLife(0.0, 0.0)
        now = time.monotonic()
        endless = grant.ends_at == float("inf")
        remaining = None if endless else max(0.0, grant.ends_at - now)
        return CredentialLife(now - grant.issued_at, remaining)

    @abstractmethod
    def revoke(self) -> None:
        """Give back what was obtained here."""


class StaticToken(TokenSource):
    """The caller's own token: neither renewed nor revoked by us.

    Args:
        transport: Where to ask about it.
        token: The token.
    """

    def __init__(self, transport: VaultTransport, token: Masked) -> None:
        self._transport = transport
        self._grant: Grant = Grant(token=token)

    def current(self, deadline: Deadline) -> Grant:
        """Return the token."""
        del deadline
        return self._grant

    def replacement(
        self, refused: Grant, refusal: VaultAuthenticationError, deadline: Deadline
    ) -> None:
        """Return None: there is no other token."""

    def verify(self, deadline: Deadline) -> None:
        """Look the token up; one that may not look itself up passes, for a read is the proof.

        Raises:
            VaultAuthenticationError: It is invalid, expired or revoked.
        """
        operation = Operation(
            kind="token", text="verify the token", addr=self._transport.options.addr
        )
        asked_at = time.monotonic()
        try:
            # The answer is kept out of this frame: it repeats the token.
            known = token_life_in(
                self._transport.call(
                    operation, lookup_self, deadline=deadline, token=self._grant.token
                )
            )
        except VaultAuthenticationError as refusal:
            if refusal.reason != "permission_denied":
                raise
        else:
            if known is None:
                raise not_vault(operation, "HTTP 200 without a token's data")
            self._grant = replace(
                self._grant, issued_at=asked_at - known.age, ends_at=asked_at + known.remaining
            )

    def looked_up(self, grant: Grant, deadline: Deadline) -> Grant:
        """Return the token with its present end, where it may look itself up."""
        del grant
        try:
            self.verify(deadline)
        except VaultError as error:
            _log.debug("the token's end is not known anew: %s", error)
        return self._grant

    def revoke(self) -> None:
        """Do nothing: the token is the caller's."""


class AppRoleTokens(TokenSource):
    """Tokens from AppRole logins.

    Args:
        transport: Where to log in.
        role_id: The role's id.
        secret_id: Its secret id.
        clock: Seconds that only go forward.
    """

    def __init__(
        self,
        transport: VaultTransport,
        role_id: Masked,
        secret_id: Masked,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport = transport
        self._role_id = role_id
        self._secret_id = secret_id
        self._clock = clock
        self._lock = threading.Lock()
        self._grant: Grant | None = None
        self._generation = 0
        #: The generation that a refusal brought and that has not worked yet; 0 for none.
        self._unproven = 0
        self._next_doubtful_login = float("-inf")
        self._over = False

    def current(self, deadline: Deadline) -> Grant:
        """Return the token; log in, renew or replace it first where its age demands it.

        Raises:
            VaultError: There is no usable token and none could be had.
        """
        grant = self._grant
        now = self._clock()
        if grant is not None and now < grant.refresh_at:
            return grant
        if grant is not None and now < grant.usable_until:
            if not self._lock.acquire(blocking=False):
                return grant  # another thread sees to it, and this one is good meanwhile
        else:
            self._wait_for_lock(deadline)
        try:
            if self._grant is None or self._clock() >= self._grant.refresh_at:
                self._grant = self._refreshed(self._grant, deadline)
            return self._grant
        finally:
            self._lock.release()

    def replacement(
        self, refused: Grant, refusal: VaultAuthenticationError, deadline: Deadline
    ) -> Grant | None:
        """Log in anew after a 403, once for all threads; None when that would mend nothing.

        A denial by policy is worth a login only now and then: the role may have new policies.
        So is a refusal of a token that came from such a login and has never worked.
        """
        self._wait_for_lock(deadline)
        try:
            grant = self._grant
            if grant is not None and grant.generation != refused.generation:
                return grant
            denied = refusal.reason == "permission_denied"
            if denied or refused.generation == self._unproven:
                if self._clock() < self._next_doubtful_login:
                    return None
                self._next_doubtful_login = self._clock() + _DENIAL_PAUSE
            self._grant = self._login(deadline)
            self._unproven = self._grant.generation
            return self._grant
        finally:
            self._lock.release()

    def accepted(self, grant: Grant) -> None:
        """Note that the server took the token."""
        if self._unproven == grant.generation:
            self._unproven = 0

    def verify(self, deadline: Deadline) -> None:
        """Log in.

        Raises:
            VaultError: The login failed.
        """
        self.current(deadline)

    def revoke(self) -> None:
        """Revoke the token; a failure is logged and no more, for the token dies by itself."""
        self._over = True
        # A login on its way in another thread brings a token that is to be revoked as well.
        waited = self._lock.acquire(timeout=_REVOKE_TIMEOUT)
        grant, self._grant = self._grant, None
        if waited:
            self._lock.release()
        if grant is None:
            return
        try:
            self._transport.call(
                self._operation("token", "revoke the token"),
                revoke_self,
                deadline=Deadline(_REVOKE_TIMEOUT),
                token=grant.token,
                retries=0,
            )
        except VaultError as error:
            _log.debug("the token was not revoked: %s", error)

    def _wait_for_lock(self, deadline: Deadline) -> None:
        if not self._lock.acquire(timeout=deadline.remaining()):
            raise VaultConnectionError(
                f"{self._operation('login', 'log in')}: another thread's login did not end in "
                "time; raise timeout, or see why Vault is slow",
                reason="timeout",
            )

    def _refreshed(self, grant: Grant | None, deadline: Deadline) -> Grant:
        if grant is None or self._clock() >= grant.usable_until:
            return self._login(deadline)
        # The caller came to read a secret: this must leave time for that.
        part = deadline.sooner(deadline.remaining() / 2)
        try:
            if grant.renewable:
                try:
                    return self._renewed(grant, part)
                except VaultConnectionError:
                    raise
                except VaultError as error:
                    _log.debug("the token cannot be renewed, so it is replaced: %s", error)
            return self._login(part, retries=0)
        except VaultError as error:
            # The token still lives; the next try comes soon, but not with every call.
            _log.warning("the token could not be renewed or replaced yet: %s", error)
            now = self._clock()
            pause = max(_SHORTEST_REFRESH_PAUSE, (grant.usable_until - now) / 4)
            return replace(grant, refresh_at=min(grant.usable_until, now + pause))

    def _login(self, deadline: Deadline, *, retries: int | None = None) -> Grant:
        operation = self._operation("login", "log in by AppRole")
        if self._over:
            raise VaultError(f"{operation}: the client was closed meanwhile", reason="closed")
        asked_at = self._clock()
        token, ttl, renewable = self._ask_for_token(
            operation,
            lambda adapter: approle_login(adapter, self._role_id, self._secret_id),
            deadline=deadline,
            retries=retries,
        )
        self._generation += 1
        _log.debug("logged in by AppRole, login %d, for %g s", self._generation, ttl)
        return _grant(
            Grant(token=token, generation=self._generation, issued_at=asked_at, full_ttl=ttl),
            ttl,
            asked_at,
            renewable=renewable,
        )

    def _renewed(self, grant: Grant, deadline: Deadline) -> Grant:
        operation = self._operation("token", "renew the token")
        asked_at = self._clock()
        token, ttl, renewable = self._ask_for_token(
            operation, renew_self, deadline=deadline, token=grant.token, retries=0
        )
        # Near the end of its longest life a renewal gives less: after that, only a login helps.
        worth_it = renewable and ttl >= grant.full_ttl / 2
        return _grant(replace(grant, token=token), ttl, asked_at, renewable=worth_it)

    def _ask_for_token(
        self, operation: Operation, send: Callable[[VaultAdapter], Body], **options: Any
    ) -> tuple[Masked, float, bool]:
        # The answer is kept out of this frame: in an unexpected shape it is a secret all the same.
        auth = auth_in(self._transport.call(operation, send, **options))
        if auth is None:
            raise not_vault(operation, "HTTP 200 without a token")
        return auth

    def _operation(self, kind: Literal["login", "token"], text: str) -> Operation:
        return Operation(kind=kind, text=text, addr=self._transport.options.addr)


def token_source(transport: VaultTransport) -> TokenSource:
    """Return the source that the options ask for."""
    options = transport.options
    if options.token is not None:
        return StaticToken(transport, options.token)
    if options.role_id is None or options.secret_id is None:
        raise AssertionError("resolve_options() lets no AppRole without its ids through")
    return AppRoleTokens(transport, options.role_id, options.secret_id)


def _grant(grant: Grant, ttl: float, asked_at: float, *, renewable: bool) -> Grant:
    """Return *grant* with *ttl* seconds of life from *asked_at* on; 0 is for ever."""
    if not ttl:
        endless = float("inf")
        return replace(grant, refresh_at=endless, usable_until=endless, ends_at=endless)
    part = random.uniform(*_REFRESH_AT)  # noqa: S311 - no secret depends on it
    return replace(
        grant,
        refresh_at=asked_at + ttl * part,
        usable_until=asked_at + ttl * _USABLE_UNTIL,
        ends_at=asked_at + ttl,
        renewable=renewable,
    )

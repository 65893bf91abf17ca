"""Renew a token, replace it before it expires, and log in again after a refusal.

No background thread: a call that finds the token old renews it, and all others go on.

A lock and not ``SingleFlight`` keeps logins apart: a caller whose token is still good must not join
the call that renews it, one that did join would have to see whether that token serves it and has a
use left, and ``close()`` and a denial that is undone need the same exclusion without a call.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from .._shared.locks import OwnedLock
from .._shared.single_flight import fresh_copy
from ..errors import VaultAuthenticationError, VaultConnectionError, VaultError
from .api import renew_self, revoke_self
from .errors import Operation
from .login_methods import LoginRequest
from .retry import Deadline
from .token_grant import Grant, owners_grant, request_token
from .token_sources import TokenSource

if TYPE_CHECKING:
    from collections.abc import Callable

    from .login_methods import Login
    from .transport import VaultTransport

__all__ = ["LoginTokens"]

#: Seconds between two logins that only a denial asked for: a role's new policies are seen that
#: soon, and a path that stays denied costs no more than that.
_DENIAL_PAUSE = 60.0
_REVOKE_TIMEOUT = 2.0
#: Seconds between two failed tries to refresh a token that still lives.
_SHORTEST_REFRESH_PAUSE = 1.0

_log = logging.getLogger("clients.vault")


class LoginTokens(TokenSource):
    """Tokens from a login that can be repeated.

    Args:
        transport: Where to log in.
        login: How to.
        clock: Seconds that only go forward.
    """

    def __init__(
        self,
        transport: VaultTransport,
        login: Login,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport = transport
        self._login = login
        self._clock = clock
        self._lock = OwnedLock()
        self._grant: Grant | None = None
        self._generation = 0
        #: The generation of a login after a refusal, until its token is accepted; 0 for none.
        self._unconfirmed_login = 0
        #: The token in use before that login, where a policy denied it something.
        self._previous_grant: Grant | None = None
        #: A token that was denied the same, to be revoked before the next login.
        self._idle: Grant | None = None
        #: Counts logins that ended; the error of the last one, where it failed.
        self._ended = 0
        self._failure: VaultError | None = None
        self._next_login_after_denial = float("-inf")
        self._closing = False
        self._logins = self._renewals = 0

    def current(self, deadline: Deadline) -> Grant:
        """Return the token; log in, renew or replace it first where its age demands it.

        Raises:
            VaultError: There is no usable token and none could be had.
        """
        grant = self._grant
        now = self._clock()
        if grant is not None and now < grant.refresh_at and grant.spend():
            return grant
        try:
            if grant is not None and now < grant.usable_until and grant.spend():
                if not self._lock.acquire(timeout=0):
                    return grant  # another thread renews it, and this one is still good
            else:
                self._wait_for_lock(deadline)
            other = self._grant
            if other is not None and other is not grant and self._is_fresh(other):
                return other
            self._grant = self._refreshed(other, deadline)
            if other is None or self._grant.generation != other.generation:
                self._grant.spend()
            return self._grant
        finally:
            try:
                self._lock.release()
            except RuntimeError:
                pass  # it was not acquired

    def replacement(
        self, refused: Grant, refusal: VaultAuthenticationError, deadline: Deadline
    ) -> Grant | None:
        """Log in again after a 403, once for all threads; None when that would change nothing.

        A denial by policy is worth a login only now and then: the role may have new policies.
        So is a refusal of a token that came from such a login and has never worked.
        """
        try:
            self._wait_for_lock(deadline)
            grant = self._grant
            if grant is not None and grant.generation != refused.generation and grant.spend():
                return grant
            denied = refusal.reason == "permission_denied"
            if denied or refused.generation == self._unconfirmed_login:
                is_early = self._clock() < self._next_login_after_denial
                if is_early and not self._login.has_another(refused):
                    return None
                self._next_login_after_denial = self._clock() + _DENIAL_PAUSE
                self._give_back(deadline.sooner(_REVOKE_TIMEOUT), idle_alone=True)
            found = self._obtained(deadline, refused=refused, denied=denied)
            if found is None:
                return None
            self._grant = found
            self._grant.spend()
            self._unconfirmed_login = self._grant.generation
            self._previous_grant = grant if denied else None
            return self._grant
        finally:
            try:
                self._lock.release()
            except RuntimeError:
                pass  # it was not acquired

    def accepted(self, grant: Grant) -> None:
        """Note that the server took the token."""
        if self._unconfirmed_login == grant.generation:
            self._unconfirmed_login, self._previous_grant = 0, None

    def denied(self, grant: Grant) -> None:
        """Note that a policy denied a request; go back to a previous token with the same policies.

        Otherwise each login for a path that stays denied would leave another token behind. The
        previous one is kept: credentials that were issued to it are revoked with it.
        """
        if self._unconfirmed_login != grant.generation:
            return
        previous, self._previous_grant, self._unconfirmed_login = self._previous_grant, None, 0
        # Where its owner has replaced the token, the new one stays.
        if previous is None or not self._login.owned or self._clock() >= previous.usable_until:
            return
        if previous.policies != grant.policies:
            return
        try:
            if self._lock.acquire(timeout=0) and self._grant is grant:
                # Other threads may still show it: it is revoked later on.
                self._grant, self._idle = previous, grant
        finally:
            try:
                self._lock.release()
            except RuntimeError:
                pass  # it was not acquired

    def verify(self, deadline: Deadline) -> None:
        """Log in.

        Raises:
            VaultError: The login failed.
        """
        self.current(deadline)

    def looked_up(self, grant: Grant, deadline: Deadline) -> Grant:
        """Return the token as it stands now, where its owner may have renewed it."""
        if self._login.owned:
            return grant
        try:
            return owners_grant(
                self._transport,
                self._operation("token", self._login.text),
                grant.token,
                generation=grant.generation,
                clock=self._clock,
                deadline=deadline,
                retries=0,
            )
        except VaultError as error:
            _log.debug("the token's new end is not known: %s", error)
            return grant

    def counts(self) -> tuple[int, int]:
        """Return the numbers of logins and of renewals."""
        return self._logins, self._renewals

    def revoke(self) -> None:
        """Revoke the token; a failure is only logged, for the token expires by itself."""
        self._closing = True
        # Wait for a login of another thread: its token has to be revoked as well.
        try:
            self._lock.acquire(timeout=_REVOKE_TIMEOUT)
        finally:
            try:
                self._lock.release()
            except RuntimeError:
                pass  # it was not acquired
        self._give_back(Deadline(_REVOKE_TIMEOUT))

    def _give_back(self, deadline: Deadline, *, idle_alone: bool = False) -> None:
        grants, self._idle = [self._idle], None
        if not idle_alone:
            grants.append(self._grant)
            self._grant = None
        if not self._login.owned:
            return
        for grant in filter(None, grants):
            try:
                self._transport.call(
                    self._operation("token", "revoke the token"),
                    revoke_self,
                    deadline=deadline,
                    token=grant.token,
                    retries=0,
                )
            except VaultError as error:
                _log.debug("the token was not revoked: %s", error)

    def _is_fresh(self, grant: Grant) -> bool:
        return self._clock() < grant.refresh_at and grant.spend()

    def _wait_for_lock(self, deadline: Deadline) -> None:
        ended = self._ended
        if not self._lock.acquire(timeout=deadline.remaining()):
            raise VaultConnectionError(
                f"{self._operation('login', self._login.text)}: another thread's login did not "
                "end in time; raise timeout, or see why Vault is slow",
                reason="timeout",
            )
        if self._failure is not None and self._ended != ended:
            # All who waited get this failure: a server locks out who fails too often.
            cause = self._failure.__cause__
            raise fresh_copy(self._failure) from None if cause is None else fresh_copy(cause)

    def _refreshed(self, grant: Grant | None, deadline: Deadline) -> Grant:
        if grant is None or grant.uses is not None or self._clock() >= grant.usable_until:
            return self._logged_in(deadline)
        # The other half is for the caller's own request.
        part = deadline.sooner(deadline.remaining() / 2)
        try:
            if grant.renewable:
                try:
                    return self._renewed(grant, part)
                except VaultConnectionError:
                    raise
                except VaultError as error:
                    _log.debug("the token cannot be renewed, so it is replaced: %s", error)
            return self._logged_in(part, retries=0)
        except VaultError as error:
            # The token still lives; the next try comes soon, but not with every call.
            _log.warning("the token could not be renewed or replaced yet: %s", error)
            now = self._clock()
            pause = max(_SHORTEST_REFRESH_PAUSE, (grant.usable_until - now) / 4)
            return replace(grant, refresh_at=min(grant.usable_until, now + pause))

    def _logged_in(self, deadline: Deadline, *, retries: int | None = None) -> Grant:
        grant = self._obtained(deadline, retries=retries)
        if grant is None:
            raise AssertionError("only a token that was refused can be no better")
        return grant

    def _obtained(
        self,
        deadline: Deadline,
        *,
        refused: Grant | None = None,
        denied: bool = False,
        retries: int | None = None,
    ) -> Grant | None:
        if self._closing:
            raise VaultError(
                f"{self._operation('login', self._login.text)}: the client was closed meanwhile",
                reason="closed",
            )
        request = LoginRequest(
            transport=self._transport,
            clock=self._clock,
            deadline=deadline,
            generation=self._generation + 1,
            retries=retries,
            known=self._grant if refused is None else refused,
            refused=refused is not None,
            denied=denied,
        )
        try:
            grant = self._login.obtain(request)
        except VaultError as error:
            self._failure = error
            self._ended += 1
            raise
        self._failure = None
        self._ended += 1
        if grant is None:
            return None
        if grant.generation > self._generation:
            self._generation = grant.generation
            self._logins += 1
            _log.debug("%s: token %d, for %g s", self._login.text, grant.generation, grant.ttl)
        return grant

    def _renewed(self, grant: Grant, deadline: Deadline) -> Grant:
        operation = self._operation("token", "renew the token")
        renewed = request_token(
            self._transport,
            operation,
            renew_self,
            generation=grant.generation,
            clock=self._clock,
            deadline=deadline,
            token=grant.token,
            retries=0,
        )
        self._renewals += 1
        # Near its maximum TTL a renewal gives less: then the token is replaced by a login.
        worth_it = renewed.renewable and renewed.ttl >= grant.ttl / 2
        return replace(
            renewed,
            ttl=grant.ttl,
            issued_at=grant.issued_at,
            renewable=worth_it,
            policies=grant.policies,
        )

    def _operation(self, kind: Literal["login", "token"], text: str) -> Operation:
        return Operation(kind=kind, text=text, addr=self._transport.options.addr)

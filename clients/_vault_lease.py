"""A user and a password from Vault's database secrets engine, for as long as somebody needs them.

No background thread: a call that finds the lease old sees to it, and all others go on. As long as
Vault cannot be asked, connections that are open stay in use, whatever the clock says.
Source: https://openbao.org/docs/secrets/databases/ and https://openbao.org/docs/concepts/lease/.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
import weakref
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from clients._credentials import Credential, CredentialLife
from clients._vault_answers import DatabaseCredential, credential_in
from clients._vault_api import read_database_credential, renew_lease, revoke_lease
from clients._vault_errors import Operation, not_vault
from clients._vault_grant import refresh_part
from clients._vault_paths import database_path
from clients._vault_retry import Deadline
from clients._vault_settings import Masked
from clients.errors import VaultConfigurationError, VaultConnectionError, VaultError

if TYPE_CHECKING:
    from collections.abc import Callable

    from clients._vault_grant import Grant
    from clients._vault_session import VaultSession
    from clients._vault_transport import Body

__all__ = ["LeasedUrl"]

#: Seconds between two tries to do so, or to find out whether a doubted lease still lives.
_SHORTEST_PAUSE = 1.0
#: Seconds that a call whose credential still works spends on it.
_REFRESH_TIMEOUT = 1.0
_REVOKE_TIMEOUT = 2.0

_log = logging.getLogger("clients.credentials")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lease:
    """What Vault gave, on the monotonic clock.

    Args:
        lease_id: Its name at Vault; empty for a static role, which has no lease.
        url: The connection URL with the user and the password.
        user: The user's name.
        secret: The password, to tell whether it has changed.
        issued_at: When it was given, or its password last rotated.
        refresh_at: When to renew or replace it.
        ends_at: When it ends: its own end, or that of the token that it hangs on.
        full_ttl: The seconds that it was given at first.
        renewable: Whether a renewal can make it live longer.
        generation: The login whose token it hangs on.
    """

    lease_id: str
    url: Masked
    user: str
    secret: Masked
    issued_at: float
    refresh_at: float
    ends_at: float
    full_ttl: float
    renewable: bool
    generation: int


class LeasedUrl(Credential):
    """A connection URL with a user and a password of its own from Vault.

    Give it to ``PostgresClient`` or ``ValkeyClient`` in place of a URL, and close it after them.
    Safe to share between threads; a forked child gets a lease of its own.

    Args:
        session: Returns this process's connection to Vault.
        role: ``crm-app`` for ``database/creds/crm-app``, or the path itself, such as
            ``database/static-creds/crm-app``.
        base_url: Returns the URL to put user and password into, in place of those it may have.
        timeout: Seconds that getting a credential may take.

    Raises:
        VaultConfigurationError: *role* is no role and no path of one.
    """

    def __init__(
        self,
        session: Callable[[], VaultSession],
        role: str,
        base_url: Callable[[], str],
        *,
        timeout: float,
    ) -> None:
        self.path = database_path(role)
        self._session = session
        self._base_url = base_url
        self._timeout = timeout
        self._serial = 0
        self._closed = False
        self._start()
        _leased.add(self)

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._lease: _Lease | None = None
        #: Leases that were replaced and may still live, with their ends.
        self._replaced: dict[str, float] = {}
        self._base: str | None = None
        self._doubted = False
        self._looked_at = self._next_try = float("-inf")
        self._in_trouble = False

    def __repr__(self) -> str:
        return f"<LeasedUrl {self.path}>"

    def __call__(self, *, use_cache: bool = True) -> str:
        """Return the URL.

        Args:
            use_cache: False says that the server refused it: it is replaced, unless it is new.

        Raises:
            VaultError: There is no credential, and none could be had.
        """
        deadline = Deadline(self._timeout)
        self._acquire(deadline)
        try:
            lease, now = self._lease, time.monotonic()
            new = lease is not None and now - lease.issued_at < _SHORTEST_PAUSE
            if lease is None or now >= lease.ends_at or not (use_cache or new):
                lease = self._lease = self._replacement(lease, deadline)
            return lease.url.reveal()
        finally:
            self._lock.release()

    def serial(self) -> int:
        """Renew or replace the lease where its age demands it, and return its user's number.

        Never raises: what cannot be had now is tried for again in a moment.

        Returns:
            A number that grows with each new user: connections of the one before are given up.
        """
        lease, now = self._lease, time.monotonic()
        if lease is None or now < self._next_try:
            return self._serial
        doubted = self._doubted and now >= self._looked_at + _SHORTEST_PAUSE
        if (now >= lease.refresh_at or doubted) and self._lock.acquire(blocking=False):
            try:
                if self._lease is lease and not self._closed:
                    self._refresh(lease)
            finally:
                self._lock.release()
        return self._serial

    def doubt(self) -> None:
        """Have the lease looked at before the next checkout: its user seems to be gone."""
        self._doubted = True

    def life(self) -> CredentialLife:
        """Return the age of the lease, and the seconds until it or its token ends."""
        lease = self._lease
        if lease is None:
            return CredentialLife(0.0, 0.0)
        return CredentialLife.between(lease.issued_at, lease.ends_at)

    def close(self) -> None:
        """Revoke what still lives; a failure is logged and no more, for a lease ends by itself."""
        self._closed = True
        waited = self._lock.acquire(timeout=_REVOKE_TIMEOUT)
        try:
            now = time.monotonic()
            living = [one for one, ends_at in self._replaced.items() if now < ends_at]
            if self._lease is not None and self._lease.lease_id:
                living.append(self._lease.lease_id)
            self._lease, self._replaced = None, {}
        finally:
            if waited:
                self._lock.release()
        for lease_id in living:
            self._revoke(lease_id)

    def _acquire(self, deadline: Deadline) -> None:
        if not self._lock.acquire(timeout=deadline.remaining()):
            raise VaultConnectionError(
                f"{self._operation('read')}: another thread's request did not end in time; raise "
                "timeout, or see why Vault is slow",
                reason="timeout",
            )

    def _refresh(self, lease: _Lease) -> None:
        started = self._looked_at = time.monotonic()
        deadline = Deadline(_REFRESH_TIMEOUT)
        self._doubted = False
        try:
            self._lease = self._renewed(lease, deadline) or self._replacement(lease, deadline)
            self._in_trouble = False
        except VaultError as error:
            # Connections that are open go on; the next try comes soon, but not with every call.
            now = time.monotonic()
            self._next_try = now + max(_SHORTEST_PAUSE, 4 * (now - started))
            _log.log(
                logging.DEBUG if self._in_trouble else logging.WARNING,
                "the credential of %s could not be renewed or replaced yet, and open connections "
                "go on with it: %s",
                self.path,
                error,
            )
            self._in_trouble = True

    def _renewed(self, lease: _Lease, deadline: Deadline) -> _Lease | None:
        """Return the lease with a longer life; None when it is to be replaced.

        Raises:
            VaultConnectionError: Vault could not be asked: no reason to get another credential.
        """
        if not lease.renewable:
            return None
        operation = self._operation("renew")
        try:
            body, grant = self._session().ask_as(
                operation,
                lambda adapter: renew_lease(adapter, lease.lease_id, lease.full_ttl),
                deadline,
                retries=0,
            )
        except VaultConnectionError:
            raise
        except VaultError as error:
            _log.debug("%s is replaced: %s", self.path, error)
            return None
        ttl = body.get("lease_duration")
        # Near its longest life a renewal gives less, and a lease dies with the token of its login.
        if (
            not isinstance(ttl, int | float)
            or ttl < lease.full_ttl / 2
            or grant.generation != lease.generation
        ):
            return None
        ends_at, refresh_at = self._span(ttl, grant, deadline)
        return replace(lease, ends_at=ends_at, refresh_at=refresh_at)

    def _replacement(self, lease: _Lease | None, deadline: Deadline) -> _Lease:
        if self._closed:
            raise VaultError(
                f"{self._operation('read')}: it was closed; make new clients", reason="closed"
            )
        new = self._read(deadline)
        now = time.monotonic()
        self._replaced = {one: end for one, end in self._replaced.items() if now < end}
        if lease is not None and lease.lease_id and lease.lease_id != new.lease_id:
            self._replaced[lease.lease_id] = lease.ends_at
        if lease is None or lease.user != new.user:
            self._serial += 1
        if lease is not None and lease.secret.reveal() != new.secret.reveal():
            _log.info("the credential of %s was rotated: the user is %s", self.path, new.user)
        return new

    def _read(self, deadline: Deadline) -> _Lease:
        operation = self._operation("read")
        # At first before anything is made that must end.
        base = self._base or _checked(self._base_url())
        # The answer is kept out of this frame: it holds the password.
        found, grant = _found_in(
            *self._session().ask_as(
                operation,
                lambda adapter: read_database_credential(adapter, self.path),
                deadline,
            )
        )
        if found is None:
            raise not_vault(operation, "HTTP 200 without a user and a password")
        if self._base is not None:
            with suppress(VaultError):  # the one that is known may do
                base = _checked(self._base_url())
        self._base = base
        now = time.monotonic()
        if found.lease_id:
            ends_at, refresh_at = self._span(found.ttl, grant, deadline)
        else:
            # A static role goes on when its password is rotated; Vault may be a little late.
            ends_at = now + found.ttl
            refresh_at = max(ends_at, now + _SHORTEST_PAUSE / 2)
        return _Lease(
            lease_id=found.lease_id,
            url=Masked(_with_login(base, found.user, found.secret)),
            user=found.user,
            secret=found.secret,
            issued_at=now - found.age,
            refresh_at=refresh_at,
            ends_at=ends_at,
            full_ttl=found.ttl,
            renewable=found.renewable,
            generation=grant.generation,
        )

    def _span(self, ttl: float, grant: Grant, deadline: Deadline) -> tuple[float, float]:
        """Return when a lease of *ttl* seconds ends, and when it is to be looked after."""
        # Vault revokes a token's leases with the token.
        token = self._session().tokens.looked_up(grant, deadline)
        now = time.monotonic()
        ends_at = min(now + ttl, token.ends_at)
        refresh_at = min(now + max(0.0, ends_at - now) * refresh_part(), token.refresh_at)
        return ends_at, max(refresh_at, now + _SHORTEST_PAUSE / 10)

    def _revoke(self, lease_id: str) -> None:
        try:
            self._session().ask_as(
                self._operation("revoke"),
                lambda adapter: revoke_lease(adapter, lease_id),
                Deadline(_REVOKE_TIMEOUT),
                retries=0,
            )
        except VaultError as error:
            _log.warning("a lease of %s was not revoked, and ends by itself: %s", self.path, error)

    def _operation(self, verb: Literal["read", "renew", "revoke"]) -> Operation:
        what = {"read": "get", "renew": "renew", "revoke": "revoke"}[verb]
        return Operation(
            kind="lease",
            text=f"{what} the credential of {self.path!r}",
            addr=self._session().options.addr,
        )


def _found_in(body: Body, grant: Grant) -> tuple[DatabaseCredential | None, Grant]:
    return credential_in(body), grant


def _checked(base_url: str) -> str:
    if "://" in base_url:
        return base_url
    raise VaultConfigurationError(
        "the URL that the user and the password go into is no URL: write it as "
        "scheme://host:port/database",
        reason="setting",
    )


def _with_login(base_url: str, user: str, secret: Masked) -> str:
    """Return the URL with another user and password."""
    scheme, _, rest = base_url.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    _, _, hosts = authority.rpartition("@")
    login = f"{quote(user, safe='')}:{quote(secret.reveal(), safe='')}"
    return f"{scheme}://{login}@{hosts}{rest[len(authority) :]}"


#: Every LeasedUrl, for the fork hook.
_leased: weakref.WeakSet[LeasedUrl] = weakref.WeakSet()


def _restart_all_in_child() -> None:
    # The parent's lease is the parent's to renew and to revoke.
    for one in list(_leased):
        one._start()  # noqa: SLF001 - this module's own


os.register_at_fork(after_in_child=_restart_all_in_child)

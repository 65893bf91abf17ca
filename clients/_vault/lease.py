"""A user and a password from Vault's database secrets engine, for as long as somebody needs them.

No background thread: a call that finds the lease old renews it, and all others go on. As long as
Vault cannot be reached, connections that are open stay in use, whatever the clock says.

A lock and not ``SingleFlight`` keeps requests apart: threads share a refusal and an outage in the
clients' ``UrlSource`` already, a renewal must neither wait for nor join another call, and a signal
handler may call for the URL in the middle of one.

Source: https://openbao.org/docs/secrets/databases/ and https://openbao.org/docs/concepts/lease/.
"""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote, unquote

from .._shared.credential_life import Credential, CredentialLife
from .._shared.fork import on_fork
from .._shared.lifecycle import Lifecycle
from .._shared.locks import OwnedLock
from .._shared.rotating_url import is_past_cache
from .._shared.secrecy import Masked
from .._shared.validation import checked_callable
from ..errors import VaultConfigurationError, VaultConnectionError, VaultError
from .api import (
    DatabaseCredential,
    credential_in,
    is_duration,
    read_database_credential,
    renew_lease,
    revoke_lease,
)
from .errors import Operation, not_vault
from .paths import database_path
from .retry import Deadline
from .token_grant import refresh_part

if TYPE_CHECKING:
    from collections.abc import Callable

    from .session import VaultSession
    from .token_grant import Grant
    from .transport import Body

__all__ = ["Lease", "LeasedUrl", "checked_base", "with_login"]

#: libpq lets these win over what stands before the host.
_LOGIN_OPTIONS = frozenset({"password", "user"})


def checked_base(base_url: object) -> Masked:
    """Return the URL; it may hold a password of its own.

    Raises:
        VaultConfigurationError: It is none.
    """
    if isinstance(base_url, str) and "://" in base_url:
        return Masked(base_url)
    del base_url  # error reporters collect local variables
    raise VaultConfigurationError(
        "the URL that the user and the password go into is not a URL: write it as "
        "scheme://host:port/database",
        reason="setting",
    )


def with_login(base: Masked, user: str, secret: Masked) -> str:
    """Return the URL with *user* and *secret* in place of those that it may have."""
    scheme, _, rest = base.reveal().partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    path, mark, query = rest[len(authority) :].partition("?")
    if mark and scheme.startswith("postgres"):
        pairs = query.split("&")
        query = "&".join(
            one for one in pairs if unquote(one.partition("=")[0]) not in _LOGIN_OPTIONS
        )
    _, _, hosts = authority.rpartition("@")
    login = f"{quote(user, safe='')}:{quote(secret.reveal(), safe='')}"
    return f"{scheme}://{login}@{hosts}{path}{mark}{query}"


#: Seconds between two tries to do so, or to find out whether a lease in doubt still lives.
_SHORTEST_PAUSE = 1.0
#: Seconds that a call whose credential still works spends on it; twice as many after each try
#: that got no answer: some databases are slow to make a user, and each such try may leave one.
_REFRESH_TIMEOUT = 1.0
#: Seconds from one user that the server refuses to the next: twice as many after each of them.
_LONGEST_REFUSED_PAUSE = 30.0
_REVOKE_TIMEOUT = 2.0
#: Seconds between two times that a static role's user is believed to have been made again.
_REISSUE_PAUSE = 5.0

_log = logging.getLogger("clients.credentials")
_refusal = partial(VaultConfigurationError, reason="setting")


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


class LeasedUrl(Credential, Lifecycle):
    """A connection URL with a user and a password of its own from Vault.

    Give it to ``PostgresClient`` or ``ValkeyClient`` in place of a URL, and close it after them,
    by ``close()`` or as a context manager. Safe to share between threads; a forked child gets a
    lease of its own.

    Args:
        session: Returns this process's connection to Vault.
        role: ``crm-app`` for ``database/creds/crm-app``, or the path itself, such as
            ``database/static-creds/crm-app``.
        base_url: Returns the URL to put user and password into, in place of those it may have.
        timeout: Seconds that getting a credential may take.

    Raises:
        VaultConfigurationError: *role* is no role and no path of one, or *base_url* no callable.
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
        checked_callable("base_url", base_url, _refusal, that="returns a URL: get_database_url")
        self._session = session
        self._base_url = base_url
        self._timeout = timeout
        self._serial = 0
        self._closed = False
        self._start()
        # The parent's lease is the parent's to renew and to revoke.
        on_fork(self._start)

    def _start(self) -> None:
        self._lock = OwnedLock()
        self._lease: Lease | None = None
        #: All leases that may still live, with their ends.
        self._living: dict[str, float] = {}
        self._base: Masked | None = None
        #: The password that the base was read for.
        self._base_secret: Masked | None = None
        self._doubted = False
        self._last_check = self._next_try = self._last_reissue = float("-inf")
        self._patience = _REFRESH_TIMEOUT
        self._refused_pause = _SHORTEST_PAUSE
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
        if self._base is None:  # before anything is made that has to be revoked
            self._base = checked_base(self._base_url())
        try:
            self._acquire(deadline)
            lease, now = self._lease, time.monotonic()
            was_refused = is_past_cache() or not use_cache
            refused = was_refused and lease is not None and self._may_replace_refused(lease)
            if lease is None or now >= lease.ends_at or refused:
                lease = self._lease = self._replacement(lease, deadline)
        finally:
            try:
                self._lock.release()
            except RuntimeError:
                pass  # it was not acquired
        self._read_base_anew(lease)
        return with_login(self._base, lease.user, lease.secret)

    def generation(self) -> int:
        """Renew or replace the lease where its age demands it, and return its user's number.

        Never raises: what cannot be had now is tried for again in a moment.

        Returns:
            A number that grows with each new user: connections of the one before are given up.
        """
        lease, now = self._lease, time.monotonic()
        if lease is None or (now < self._next_try and not self._doubted):
            return self._serial
        doubted = self._doubted and now >= self._last_check + _SHORTEST_PAUSE
        if now >= lease.refresh_at or doubted:
            try:
                mine = self._lock.acquire(timeout=0)
                if mine and self._lease is lease and not self._closed:
                    self._refresh(lease)
            finally:
                try:
                    self._lock.release()
                except RuntimeError:
                    pass  # it was not acquired
        return self._serial

    def suspect_revoked(self) -> None:
        """Have the lease checked before the next checkout: its user seems to be gone."""
        self._doubted = True

    def life(self) -> CredentialLife:
        """Return the age of the lease, and the seconds until it or its token ends."""
        lease = self._lease
        if lease is None:
            return CredentialLife(0.0, 0.0)
        return CredentialLife.between(lease.issued_at, lease.ends_at)

    def close(self) -> None:
        """Revoke what still lives; a failure is only logged, for a lease expires by itself."""
        # A thread that is getting one sees this afterwards, and revokes what it got.
        self._closed = True
        try:
            self._lock.acquire(timeout=_REVOKE_TIMEOUT)
            living, self._lease, self._living = self._living, None, {}
        finally:
            try:
                self._lock.release()
            except RuntimeError:
                pass  # it was not acquired
        now = time.monotonic()
        self._revoke([one for one, ends_at in living.items() if now < ends_at])

    def _acquire(self, deadline: Deadline) -> None:
        if not self._lock.acquire(timeout=deadline.remaining()):
            raise VaultConnectionError(
                f"{self._operation('read')}: another thread's request did not end in time; raise "
                "timeout, or see why Vault is slow",
                reason="timeout",
            )

    def _may_replace_refused(self, lease: Lease) -> bool:
        """Whether a user that the server refuses is old enough to be replaced by another one.

        Where it refuses them all, each would live on to the end of its lease.
        """
        age = time.monotonic() - lease.issued_at
        if not lease.lease_id:  # a static role is only read again
            return age >= _SHORTEST_PAUSE
        if age < self._refused_pause:
            return False
        longer = min(2 * self._refused_pause, _LONGEST_REFUSED_PAUSE)
        self._refused_pause = _SHORTEST_PAUSE if age > 2 * longer else longer
        return True

    def _read_base_anew(self, lease: Lease) -> None:
        """Follow a database that has moved: once for each credential, and without the lock."""
        before, self._base_secret = self._base_secret, lease.secret
        if before is None or before is lease.secret:
            return
        try:
            self._base = checked_base(self._base_url())
        except Exception as error:  # noqa: BLE001 - the caller's callable; what is known may do
            # Not any text: it may hold the URL.
            reason = error if isinstance(error, VaultError) else type(error).__name__
            _log.warning("the URL for %s stays as it is for now: %s", self.path, reason)

    def _refresh(self, lease: Lease) -> None:
        started = self._last_check = time.monotonic()
        deadline = Deadline(min(self._patience, self._timeout))
        if self._doubted and not lease.lease_id and started >= self._last_reissue + _REISSUE_PAUSE:
            # No lease tells: a user of the same name may stand where the sessions' user was.
            self._last_reissue = started
            self._serial += 1
        self._doubted = False
        try:
            self._lease = self._renewed(lease, deadline) or self._replacement(lease, deadline)
            self._in_trouble, self._patience = False, _REFRESH_TIMEOUT
        except VaultError as error:
            # Connections that are open go on; the next try comes soon, but not with every call.
            if self._closed:
                return
            now = self._last_check = time.monotonic()
            self._next_try = now + _pause(now - started, lease.ends_at - now)
            if error.reason == "timeout":
                self._patience = min(2 * self._patience, self._timeout)
            _log.log(
                logging.DEBUG if self._in_trouble else logging.WARNING,
                "the credential of %s could not be renewed or replaced yet, and open connections "
                "go on with it: %s",
                self.path,
                error,
            )
            self._in_trouble = True

    def _renewed(self, lease: Lease, deadline: Deadline) -> Lease | None:
        """Return the lease with a longer life; None when it is to be replaced.

        Raises:
            VaultConnectionError: Vault could not be reached: no reason to get another credential.
        """
        if not lease.renewable:
            return None
        operation, asked_at = self._operation("renew"), time.monotonic()
        try:
            body, grant = self._session().request_as(
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
        # Near its maximum TTL a renewal gives less, and a lease dies with the token of its login.
        if not is_duration(ttl) or ttl < lease.full_ttl / 2 or grant.generation != lease.generation:
            return None
        ends_at, refresh_at = self._span(ttl, asked_at, grant, deadline)
        self._living[lease.lease_id] = ends_at
        return replace(lease, ends_at=ends_at, refresh_at=refresh_at)

    def _replacement(self, lease: Lease | None, deadline: Deadline) -> Lease:
        self._check_open()
        new = self._read(deadline)
        if self._closed:
            self._revoke([new.lease_id] if self._living.pop(new.lease_id, None) else [])
            self._check_open()
        if lease is None or lease.user != new.user:
            self._serial += 1
        if lease is not None and lease.secret.reveal() != new.secret.reveal():
            self.rotations += 1
            _log.info("the credential of %s was rotated: the user is %s", self.path, new.user)
        return new

    def _check_open(self) -> None:
        if self._closed:
            raise VaultError(
                f"{self._operation('read')}: it was closed; make new clients", reason="closed"
            )

    def _read(self, deadline: Deadline) -> Lease:
        operation = self._operation("read")
        # The answer is kept out of this frame: it holds the password.
        found, grant = _found_in(
            *self._session().request_as(
                operation,
                lambda adapter: read_database_credential(adapter, self.path),
                deadline,
            )
        )
        if found is None:
            raise not_vault(operation, "HTTP 200 without a user and a password")
        now = time.monotonic()
        if found.lease_id:
            # Whatever happens from here on, close() knows of it.
            self._living = {one: end for one, end in self._living.items() if now < end}
            self._living[found.lease_id] = now + found.ttl
            ends_at, refresh_at = self._span(found.ttl, now, grant, deadline)
        else:
            # A static role goes on when its password is rotated; Vault may be a little late.
            ends_at = now + found.ttl
            refresh_at = max(ends_at, now + _SHORTEST_PAUSE / 2)
        return Lease(
            lease_id=found.lease_id,
            user=found.user,
            secret=found.secret,
            issued_at=now - found.age,
            refresh_at=refresh_at,
            ends_at=ends_at,
            full_ttl=found.ttl,
            renewable=found.renewable,
            generation=grant.generation,
        )

    def _span(
        self, ttl: float, since: float, grant: Grant, deadline: Deadline
    ) -> tuple[float, float]:
        """Return when a lease of *ttl* seconds ends, and when it is to be renewed."""
        # Vault revokes a token's leases with the token.
        token = self._session().tokens.looked_up(grant, deadline)
        now = time.monotonic()
        ends_at = min(since + ttl, token.ends_at)
        refresh_at = min(since + max(0.0, ends_at - since) * refresh_part(), token.refresh_at)
        return ends_at, max(refresh_at, now + _SHORTEST_PAUSE / 10)

    def _revoke(self, leases: list[str]) -> None:
        for number, lease_id in enumerate(leases):
            try:
                self._session().request_as(
                    self._operation("revoke"),
                    partial(revoke_lease, lease_id=lease_id),
                    Deadline(_REVOKE_TIMEOUT),
                    retries=0,
                )
            except VaultConnectionError as error:
                # The others would cost as much time, and end as well.
                _log.warning(
                    "not revoked, so that each ends by itself: %d of the leases of %s: %s",
                    len(leases) - number, self.path, error,
                )  # fmt: skip
                return
            except VaultError as error:
                _log.warning(
                    "a lease of %s was not revoked, and ends by itself: %s", self.path, error
                )

    def _operation(self, verb: Literal["read", "renew", "revoke"]) -> Operation:
        kinds: dict[str, tuple[Literal["lease", "renew", "revoke"], str]] = {
            "read": ("lease", "get"),
            "renew": ("renew", "renew"),
            "revoke": ("revoke", "revoke"),
        }
        kind, what = kinds[verb]
        return Operation(
            kind=kind,
            text=f"{what} the credential of {self.path!r}",
            addr=self._session().options.addr,
        )


def _pause(took: float, left: float) -> float:
    """Return the seconds to the next try: the rarer the longer they take, but before the end."""
    pause = max(_SHORTEST_PAUSE, 4 * took)
    return pause if left <= 0 else min(pause, max(left / 2, _SHORTEST_PAUSE / 2))


def _found_in(body: Body, grant: Grant) -> tuple[DatabaseCredential | None, Grant]:
    return credential_in(body), grant

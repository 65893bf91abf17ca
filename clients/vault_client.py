"""Secrets from Vault or OpenBao, or an error that says why not.

Source: https://openbao.org/api-docs/secret/kv/kv-v2/.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ._shared.fork import on_fork
from ._shared.lifecycle import Lifecycle
from ._shared.rotating_url import is_past_cache
from ._shared.secrecy import Masked, MaskedCallable, MaskedEnvironment
from ._shared.telemetry import Reading, credential_readings
from ._shared.validation import checked_count
from ._vault.api import lookup_self
from ._vault.cache import CacheStats, SecretCache
from ._vault.errors import Operation
from ._vault.kv import KvMounts
from ._vault.lease import LeasedUrl
from ._vault.paths import check_mount_point, folder_path, secret_path
from ._vault.retry import Deadline
from ._vault.session import VaultSession
from ._vault.settings import GivenLogin, resolve_options
from ._vault.typed_secrets import TypedGetters
from .errors import (
    VaultAuthenticationError,
    VaultConfigurationError,
    VaultError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ._shared.credential_life import CredentialLife
    from .vault_auth import VaultAuth

__all__ = ["LeasedUrl", "VaultClient", "VaultError"]

#: Sessions of the parent process. Closing or collecting them could wait for a lock that a thread
#: of the parent held at the fork, and that nobody here will ever release.
_abandoned: list[VaultSession] = []


class VaultClient(TypedGetters, Lifecycle):
    """Reads secrets from a KV mount of version 2 or 1. Construction logs in, or raises.

    Safe to share between threads. A forked child gets its own connections, cache and login.

    Which login is used: ``auth``; else ``auth_method``, or what *token* or *role_id* are for; else
    the environment: ``VAULT_AUTH_METHOD`` (with ``VAULT_AUTH_ROLE`` and ``VAULT_AUTH_MOUNT``),
    ``VAULT_TOKEN``, ``VAULT_TOKEN_FILE``, ``VAULT_ROLE_ID`` with one of ``VAULT_SECRET_ID``,
    ``VAULT_SECRET_ID_FILE`` and ``VAULT_WRAPPED_SECRET_ID``: the first that is there.

    Args:
        addr: The server's URL; ``VAULT_ADDR`` when None.
        token: Short for ``auth=Token(token)``; it is neither renewed nor revoked.
        auth: How to log in: an object of `clients.vault_auth`. It excludes the other arguments
            for that, and the environment plays no part in it.
        auth_method: How to log in, in the words of ``VAULT_AUTH_METHOD``: ``"token"``,
            ``"token_file"``, ``"approle"``, ``"kubernetes"``, ``"jwt"``, ``"cert"`` or
            ``"agent"``; what it needs comes from the other arguments and the environment.
        role_id: Short for ``auth=AppRole(role_id, secret_id)``; what of the two is None comes
            from the environment.
        secret_id: See *role_id*.
        namespace: The namespace; ``VAULT_NAMESPACE`` when None.
        mount_point: Where the KV engine is mounted; its version is found out.
        timeout: Seconds that a whole call may take, retries and pauses included.
        retries: Further tries after a failure that may pass: unreachable, 412, 429, 5xx.
        cache_ttl: Seconds that a secret stays cached; 0 turns the cache off.
        environ: Where the ``VAULT_*`` variables are read; the process's environment when None.

    Raises:
        VaultConfigurationError: A setting is missing (all names in one message) or unusable.
        VaultAuthenticationError: The login was refused, or the token is invalid.
        VaultConnectionError: Vault is unreachable, too slow, sealed or uninitialised.
    """

    def __init__(
        self,
        addr: str | None = None,
        token: str | None = None,
        *,
        auth: VaultAuth | None = None,
        auth_method: str | None = None,
        role_id: str | None = None,
        secret_id: str | None = None,
        namespace: str | None = None,
        mount_point: str = "secret",
        timeout: float = 10.0,
        retries: int = 3,
        cache_ttl: float = 300.0,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._closed = False
        masked = [Masked(one) if one else None for one in (addr, token, role_id, secret_id)]
        # Error reporters collect the local variables of a traceback's frames. An address that has
        # a password in it is refused.
        del addr, token, role_id, secret_id
        environ = None if environ is None else MaskedEnvironment(environ)
        self._options = resolve_options(
            addr=masked[0],
            login=GivenLogin(
                auth=auth,
                auth_method=auth_method,
                token=masked[1],
                role_id=masked[2],
                secret_id=masked[3],
            ),
            namespace=namespace,
            mount_point=mount_point,
            timeout=timeout,
            retries=retries,
            cache_ttl=cache_ttl,
            environ=environ,
        )
        self.addr = self._options.addr
        self._start()
        try:
            self._session.verify(self._deadline())
        except BaseException:
            self._session.transport.close()
            raise
        on_fork(self._start_in_child)

    def __repr__(self) -> str:
        if not hasattr(self, "_options"):  # a failing constructor, shown by an error reporter
            return "<VaultClient without settings>"
        state = "closed" if self._closed else f"auth_method={self._options.auth_method!r}"
        mount, namespace = self._options.mount_point, self._options.namespace
        inside = f", namespace={namespace!r}" if namespace else ""
        return f"<VaultClient {self.addr} mount_point={mount!r}{inside}, {state}>"

    @property
    def server(self) -> str:
        """Where the server is: its URL, as ``addr``."""
        return self.addr

    def get_secret(
        self,
        path: str,
        version: int | None = None,
        use_cache: bool = True,  # noqa: FBT001, FBT002
        *,
        mount_point: str | None = None,
    ) -> dict[str, Any]:
        """Return the fields of a secret; changing them changes no other caller's.

        Args:
            path: ``crm/database``, or the HTTP API's spelling ``secret/data/crm/database``.
            version: A version from 1 on; the latest one when None.
            use_cache: False reads fresh, and refreshes the cache.
            mount_point: Another KV mount than the client's.

        Returns:
            The fields. An empty dict is a secret that has none, never a failure.

        Raises:
            VaultSecretNotFoundError: There is no such secret or version; ``reason`` says why.
            VaultAuthenticationError: The token is invalid or a policy denies the path.
            VaultConnectionError: Vault could not be reached, or could not answer.
            VaultConfigurationError: *path* or *version* is unfit, or the mount is of KV version 1
                and keeps no versions.
        """
        self._check_open()
        place = secret_path(self._mount(mount_point), path)
        key = (self._options.namespace, place.mount, place.path, _checked_version(version))
        use_cache = use_cache and not is_past_cache()
        if use_cache and (found := self._cache.hit(key)) is not None:
            return found
        deadline = self._deadline()
        return self._cache.read(
            key,
            lambda: self._mounts.read(place, version, deadline),
            fresh=not use_cache,
            wait=deadline.remaining,
        )

    def list_secrets(self, path: str, *, mount_point: str | None = None) -> list[str]:
        """Return the names in a folder; those of folders end in a slash.

        Args:
            path: The folder, such as ``crm``; ``"/"`` for the whole mount.
            mount_point: Another KV mount than the client's.

        Raises:
            VaultSecretNotFoundError: There is no such folder.
            VaultError: Any other failure, as for ``get_secret``.
        """
        self._check_open()
        place = folder_path(self._mount(mount_point), path)
        return self._mounts.names(place, self._deadline())

    def leased_url(self, role: str, base_url: Callable[[], str] | None = None) -> LeasedUrl:
        """Return a connection URL with a user and a password of its own, got from Vault.

        Give it to ``PostgresClient`` or ``ValkeyClient`` in place of a URL: the lease is renewed
        and replaced while they work. Close it after them, and before this client.

        Args:
            role: A role of the database secrets engine: ``crm-app`` for
                ``database/creds/crm-app``, or its path, such as
                ``database/static-creds/crm-app``.
            base_url: Returns the URL that user and password are put into, in place of those
                that it may have; ``get_database_url`` when None.

        Returns:
            The URL, as a callable; its first call reads from Vault.

        Raises:
            VaultConfigurationError: *role* is no role and no path of one, or *base_url* is no
                callable.
        """
        if base_url is None:
            base_url = partial(self.get_database_url, login_required=False)
        elif callable(base_url):
            base_url = MaskedCallable(base_url)  # error reporters collect local variables
        return LeasedUrl(lambda: self._session, role, base_url, timeout=self._options.timeout)

    def secret_age(self, path: str, *, mount_point: str | None = None) -> float:
        """Return the age of a secret's latest version, in seconds; the cache plays no part.

        Args:
            path: As for ``get_secret``.
            mount_point: Another KV mount than the client's.

        Raises:
            VaultError: As for ``get_secret``; also for a mount of KV version 1, which notes no
                times (``reason`` is ``kv_version``).
        """
        self._check_open()
        place = secret_path(self._mount(mount_point), path)
        age = self._mounts.age(place, self._deadline())
        if age is None:
            raise VaultError(
                f"the age of the secret {place} at {self.addr} is not known: its mount is of KV "
                "version 1, which notes no times",
                reason="kv_version",
            )
        return age

    def credential_life(self) -> CredentialLife:
        """Return the age of the token in use, and how long it lives unless it is renewed."""
        return self._session.tokens.life()

    def cache_stats(self) -> CacheStats:
        """Return the cache's counts; ``hits + misses + coalesced`` is the number of reads."""
        return self._cache.stats()

    def stats(self) -> dict[str, int]:
        """Return counts: logins and renewals of the token, and what the cache did.

        The keys are ``logins``, ``renewals``, ``cache_hits``, ``cache_misses``,
        ``cache_coalesced`` and ``cache_entries``; a forked child starts at 0.
        """
        logins, renewals = self._session.tokens.counts()
        cache = self._cache.stats()
        return {
            "logins": logins,
            "renewals": renewals,
            "cache_hits": cache["hits"],
            "cache_misses": cache["misses"],
            "cache_coalesced": cache["coalesced"],
            "cache_entries": cache["entries"],
        }

    def clear_cache(self) -> None:
        """Forget all cached secrets."""
        self._cache.clear()

    def health_check(self) -> bool:
        """Check that Vault is unsealed and that the token is still valid; the cache plays no part.

        Returns:
            True. A token that may not look itself up counts as known.

        Raises:
            VaultConnectionError: Vault is unreachable, sealed or uninitialised.
            VaultAuthenticationError: The authentication is lost.
        """
        self._check_open()
        deadline = self._deadline()
        self._session.health(deadline)
        operation = Operation(kind="token", text="check the authentication", addr=self.addr)
        try:
            self._session.request(operation, lookup_self, deadline)
        except VaultAuthenticationError as error:
            if error.reason != "permission_denied":
                raise VaultAuthenticationError(
                    f"authentication lost: {error}", reason=error.reason, status=error.status
                ) from error
        return True

    def server_version(self) -> str:
        """Return the server's version, such as ``"2.7.2"``.

        Raises:
            VaultConnectionError: Vault is unreachable, sealed or uninitialised.
        """
        self._check_open()
        return str(self._session.health(self._deadline()).get("version", "unknown"))

    def close(self) -> None:
        """Close the connections; revoke the token if this object, in this process, obtained it."""
        if self._closed:
            return
        self._closed = True
        self._cache.clear()
        self._session.close()

    def _start(self) -> None:
        self._session = VaultSession(self._options)
        self._mounts = KvMounts(self._session)
        self._cache = SecretCache(self._options.cache_ttl)
        self._session.transport.telemetry.observe(self._readings)

    def _readings(self) -> list[Reading]:
        cache, tokens = self._cache.stats(), self._session.tokens
        logins, _ = tokens.counts()
        return [
            Reading("failfast.vault.cache.hits", cache["hits"]),
            Reading("failfast.vault.cache.misses", cache["misses"]),
            Reading("failfast.vault.cache.coalesced", cache["coalesced"]),
            *credential_readings(tokens.life(), max(0, logins - 1)),
        ]

    def _start_in_child(self) -> None:
        if self._closed:
            return
        # Two processes that read from one socket get each other's answers, that is secrets.
        _abandoned.append(self._session)
        self._start()

    def _mount(self, mount_point: str | None) -> str:
        return self._options.mount_point if mount_point is None else check_mount_point(mount_point)

    def _check_open(self) -> None:
        if self._closed:
            raise VaultError(
                f"the Vault client for {self.addr} is closed: make a new one", reason="closed"
            )

    def _deadline(self) -> Deadline:
        return Deadline(self._options.timeout)


def _checked_version(version: object) -> int | None:
    # The server takes 0 and negative numbers for "the latest".
    if version is None:
        return None
    return checked_count(
        "version", version, partial(VaultConfigurationError, reason="setting"), minimum=1
    )

"""All three clients from one address: Vault says where the others are."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from ._postgres.identity_key import identity_key_of
from ._shared.lifecycle import Lifecycle
from ._shared.pool_stats import stats_by_pool
from ._shared.rotating_url import hidden
from ._shared.secrecy import MaskedEnvironment
from ._shared.single_flight import fresh_copy
from ._shared.validation import merged_settings
from ._vault.secret_urls import SecretUrls
from .errors import ClientError, ConfigurationError, VaultError
from .postgres_client import PostgresClient
from .valkey_client import ValkeyClient
from .vault_client import VaultClient

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

    from ._postgres.rls_setting import RlsSetting
    from ._postgres.settings import OnRlsBypass
    from ._shared.credential_life import CredentialLife
    from .vault_client import LeasedUrl

__all__ = [
    "Clients",
    "HealthReport",
    "PostgresOptions",
    "ServiceHealth",
    "ValkeyOptions",
    "build_clients",
]


class PostgresOptions(TypedDict, total=False):
    """The keyword arguments of ``PostgresClient``, described there, without the URL."""

    pool_size: int
    admin_url: str | Callable[..., str | None] | None
    min_size: int
    connect_timeout: float
    pool_timeout: float
    statement_timeout: float
    on_rls_bypass: OnRlsBypass
    identity: Mapping[str, RlsSetting] | None
    local_role: str | None
    configure: Callable[[psycopg.Connection[Any]], object] | None
    identity_key: bytes | str | Callable[..., bytes | str] | None


class ValkeyOptions(TypedDict, total=False):
    """The keyword arguments of ``ValkeyClient``, described there, without the URL."""

    connect_timeout: float
    socket_timeout: float
    max_connections: int
    pool_timeout: float
    key_prefix: str
    json_default: Callable[[Any], Any] | None


class ServiceHealth(NamedTuple):
    """What one service's health check said.

    Args:
        service: ``"vault"``, ``"postgres"`` or ``"valkey"``.
        latency: Seconds that the check took.
        error: Why it failed; None when it is healthy.
        credential: The age and the remaining life of the credential in use.
    """

    service: str
    latency: float
    error: ClientError | None = None
    credential: CredentialLife | None = None

    @property
    def healthy(self) -> bool:
        """Whether the check passed."""
        return self.error is None


class HealthReport(NamedTuple):
    """The health of all three services.

    Args:
        vault: Whether Vault is unsealed and knows us.
        postgres: Whether a query comes back.
        valkey: Whether it answers.
    """

    vault: ServiceHealth
    postgres: ServiceHealth
    valkey: ServiceHealth

    @property
    def healthy(self) -> bool:
        """Whether all three are."""
        return all(one.healthy for one in (self.vault, self.postgres, self.valkey))


@dataclass(frozen=True)
class Clients(Lifecycle):
    """The three clients, closed together.

    Args:
        vault: Secrets.
        postgres: Rows, one user at a time.
        valkey: Sessions, counters, caches.
        owns_vault: Whether ``close()`` closes *vault*; a client that was handed in stays its
            owner's.
        leases: Credentials that Vault made for these clients; ``close()`` revokes them.
    """

    vault: VaultClient
    postgres: PostgresClient
    valkey: ValkeyClient
    owns_vault: bool = field(default=True, repr=False)
    leases: tuple[LeasedUrl, ...] = field(default=(), repr=False)

    def health_check(self, *, raise_on_failure: bool = False) -> HealthReport:
        """Check each service, whatever the others say.

        Args:
            raise_on_failure: Whether to raise the first failure instead of reporting it.

        Returns:
            The report, with the latency of each.

        Raises:
            ClientError: A service failed, and *raise_on_failure* is set.
        """
        report = HealthReport(
            *(
                _check(service, client)
                for service, client in (
                    ("vault", self.vault),
                    ("postgres", self.postgres),
                    ("valkey", self.valkey),
                )
            )
        )
        for one in (report.vault, report.postgres, report.valkey):
            if raise_on_failure and one.error is not None:
                raise one.error
        return report

    def stats(self) -> dict[str, dict[str, int]]:
        """Return the numbers of each client and pool, in the words of the metrics.

        Returns:
            What the clients' own ``stats()`` return, as ``"vault"``, ``"postgres"`` and
            ``"valkey"``, and with an ``admin_url`` the other pool as ``"postgres admin"``.
        """
        return {
            "vault": self.vault.stats(),
            **stats_by_pool("postgres", self.postgres.stats),
            "valkey": self.valkey.stats(),
        }

    def close(self) -> None:
        """Close all of them in reverse order, even when one fails.

        Raises:
            ClientError: One could not be closed.
        """
        with ExitStack() as stack:
            if self.owns_vault:
                stack.callback(self.vault.close)
            for lease in self.leases:
                stack.callback(lease.close)
            stack.callback(self.postgres.close)
            stack.callback(self.valkey.close)


def build_clients(
    *,
    vault: VaultClient | None = None,
    database_path: str | None = None,
    valkey_path: str | None = None,
    identity: Mapping[str, RlsSetting] | None = None,
    local_role: str | None = None,
    postgres: PostgresOptions | None = None,
    valkey: ValkeyOptions | None = None,
    pool_size: int | None = None,
    min_size: int | None = None,
    statement_timeout: float | None = None,
    on_rls_bypass: OnRlsBypass | None = None,
    key_prefix: str | None = None,
    database_role: str | None = None,
    valkey_role: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Clients:
    """Build all three clients, or none.

    Vault's address and credentials come from the environment, everything else from Vault: two
    secrets, each with a ``url`` or its parts (``VaultClient.get_database_url``). Both are read
    again whenever a new connection is made.

    Args:
        vault: A client to use instead of a new one; it stays its owner's to close.
        database_path: Where PostgreSQL's secret is; ``mount:path`` for another mount than Vault's
            own. ``FAILFAST_DATABASE_PATH`` when None, else ``crm/database``.
        valkey_path: The same for Valkey; ``FAILFAST_VALKEY_PATH``, else ``crm/valkey``.
        identity: Whose the rows are, as for ``PostgresClient``; short for the setting in
            *postgres*, as are *local_role*, *pool_size* and the three after it.
        local_role: See *identity*.
        postgres: Settings of ``PostgresClient``, such as ``PostgresOptions(pool_timeout=1.0)``.
        valkey: Settings of ``ValkeyClient``, such as ``ValkeyOptions(socket_timeout=1.0)``.
        pool_size: See *identity*.
        min_size: See *identity*.
        statement_timeout: Seconds for each SQL statement, 0 is no limit; see *identity*.
        on_rls_bypass: See *identity*.
        key_prefix: Short for the setting in *valkey*.
        database_role: A role of Vault's database secrets engine, such as ``crm-app`` or
            ``database/static-creds/crm-app``: user and password come from there and are renewed
            and replaced in time; the secret says where the database is. ``admin_url`` stays as it
            is.
        valkey_role: The same for Valkey.
        environ: Where the environment's variables are read; the process's own when None.

    Returns:
        The clients; ``close()`` them, or use them in a ``with`` block.

    Raises:
        ConfigurationError: A setting is unknown, or given twice with different values.
        ClientError: One could not be built; its message starts with the service's name, and what
            had been opened is closed again.
    """
    # Error reporters collect local variables.
    environ = None if environ is None else MaskedEnvironment(environ)
    postgres = _without_secrets(postgres)
    postgres_settings = merged_settings(
        "postgres",
        PostgresOptions,
        postgres,
        {
            "identity": identity,
            "local_role": local_role,
            "pool_size": pool_size,
            "min_size": min_size,
            "statement_timeout": statement_timeout,
            "on_rls_bypass": on_rls_bypass,
        },
    )
    valkey_settings = merged_settings("valkey", ValkeyOptions, valkey, {"key_prefix": key_prefix})
    with ExitStack() as opened:
        if vault is None:
            with _named("vault"):
                secrets = opened.enter_context(VaultClient(environ=environ))
        elif isinstance(vault, VaultClient):
            secrets = vault
        else:
            raise ConfigurationError(f"vault is {type(vault).__name__}: pass a VaultClient")
        urls = SecretUrls.of(secrets, environ, database_path, valkey_path)
        leases: list[LeasedUrl] = []

        def url(role: str | None, stored: Callable[..., str]) -> Callable[..., str]:
            if role is None:
                return stored
            leases.append(opened.enter_context(secrets.leased_url(role, stored)))
            return leases[-1]

        with _named("postgres"):
            postgres_settings.setdefault("admin_url", urls.database_admin)
            if "identity_key" not in postgres_settings and urls.has_identity_key():
                postgres_settings["identity_key"] = urls.identity_key
            postgres_client = opened.enter_context(
                PostgresClient(
                    url(database_role, urls.database(database_role)), **postgres_settings
                )
            )
        with _named("valkey"):
            valkey_client = opened.enter_context(
                ValkeyClient(url(valkey_role, urls.valkey), **valkey_settings)
            )
        opened.pop_all()
    return Clients(
        secrets, postgres_client, valkey_client, owns_vault=vault is None, leases=tuple(leases)
    )


def _without_secrets(options: Any) -> Any:
    """Return a client's settings as a local variable may hold them."""
    if not isinstance(options, Mapping):
        return options
    known = {"admin_url": hidden, "identity_key": identity_key_of}
    return {name: known[name](value) if name in known else value for name, value in options.items()}


@contextmanager
def _named(service: str) -> Iterator[None]:
    """Let a failure say which service it was: Vault, too, where another one needs its secret."""
    try:
        yield
    except ClientError as error:
        named = fresh_copy(error)
        from_vault = isinstance(error, VaultError) and service != "vault"
        whose = f"vault, for {service}" if from_vault else service
        named.args = (f"{whose}: {error}", *error.args[1:])
        # The cause of the original is the cause of the copy: the same failure, better named.
        raise named.with_traceback(error.__traceback__) from error.__cause__


def _check(service: str, client: VaultClient | PostgresClient | ValkeyClient) -> ServiceHealth:
    started = time.perf_counter()
    failure: ClientError | None = None
    try:
        client.health_check()
    except ClientError as error:
        failure = error
    latency = time.perf_counter() - started
    return ServiceHealth(service, latency, failure, client.credential_life())

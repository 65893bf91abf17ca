"""All three clients from one address: Vault says where the others are."""

from __future__ import annotations

import copy
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ._shared.lifecycle import Lifecycle
from .errors import ClientError
from .postgres_client import PostgresClient
from .valkey_client import ValkeyClient
from .vault_client import VaultClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ._postgres.rls_setting import RlsSetting
    from ._postgres.settings import OnRlsBypass
    from ._shared.credentials import CredentialLife
    from .vault_client import LeasedUrl

__all__ = ["Clients", "HealthReport", "ServiceHealth", "build_clients"]


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
    pool_size: int = 10,
    min_size: int = 2,
    statement_timeout: float = 30.0,
    on_rls_bypass: OnRlsBypass = "error",
    identity: Mapping[str, RlsSetting] | None = None,
    local_role: str | None = None,
    key_prefix: str = "",
    database_role: str | None = None,
    valkey_role: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Clients:
    """Build all three clients, or none.

    Vault's address and credentials come from the environment, everything else from Vault: the
    secrets ``crm/database`` (``url``, and ``admin_url`` if there is one) and ``crm/valkey``
    (``url``). Both are asked for again whenever a new connection is made.

    Args:
        vault: A client to use instead of a new one; it stays its owner's to close.
        pool_size: The largest number of PostgreSQL connections.
        min_size: How many of them are opened at once.
        statement_timeout: Seconds for each SQL statement; 0 is no limit.
        on_rls_bypass: What to do about a role that row-level security does not bind: ``"error"``,
            ``"warn"`` or ``"ignore"``.
        identity: Whose rows they are, as in ``PostgresClient``: a setting for each value, by name.
        local_role: The role that each transaction of a user runs under, as in ``PostgresClient``.
        key_prefix: Stands before every Valkey key.
        database_role: A role of Vault's database secrets engine, such as ``crm-app`` or
            ``database/static-creds/crm-app``: user and password come from there and are renewed
            and replaced in time; ``url`` says where the database is. ``admin_url`` stays as it is.
        valkey_role: The same for Valkey.
        environ: Where the ``VAULT_*`` variables are read; the process's environment when None.

    Returns:
        The clients; ``close()`` them, or use them in a ``with`` block.

    Raises:
        ClientError: One could not be built; its message starts with the service's name, and what
            had been opened is closed again.
    """
    with ExitStack() as opened:
        if vault is None:
            with _named("vault"):
                secrets = opened.enter_context(VaultClient(environ=environ))
        else:
            secrets = vault
        leases: list[LeasedUrl] = []

        def url(role: str | None, stored: Callable[..., str]) -> Callable[..., str]:
            if role is None:
                return stored
            leases.append(opened.enter_context(secrets.leased_url(role, stored)))
            return leases[-1]

        with _named("postgres"):
            postgres = opened.enter_context(
                PostgresClient(
                    url(database_role, secrets.get_database_url),
                    pool_size,
                    admin_url=secrets.get_database_admin_url,
                    min_size=min_size,
                    statement_timeout=statement_timeout,
                    on_rls_bypass=on_rls_bypass,
                    identity=identity,
                    local_role=local_role,
                )
            )
        with _named("valkey"):
            valkey = opened.enter_context(
                ValkeyClient(url(valkey_role, secrets.get_valkey_url), key_prefix=key_prefix)
            )
        opened.pop_all()
    return Clients(secrets, postgres, valkey, owns_vault=vault is None, leases=tuple(leases))


@contextmanager
def _named(service: str) -> Iterator[None]:
    """Let a failure say which service it was."""
    try:
        yield
    except ClientError as error:
        named = copy.copy(error)
        named.args = (f"{service}: {error}", *error.args[1:])
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

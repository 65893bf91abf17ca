"""Look at each service on its own, for ``python -m clients check``.

``build_clients()`` is all or nothing; whoever repairs an installation wants to see all of it.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clients.errors import (
    ClientError,
    ConfigurationError,
    RlsContextError,
    VaultAuthenticationError,
    VaultSecretNotFoundError,
)
from clients.postgres_client import PostgresClient
from clients.valkey_client import ValkeyClient
from clients.vault_client import VaultClient

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["ServiceReport", "check_services"]

_LOGIN_WORDS = ("authentication failed", "WRONGPASS", "NOAUTH", "invalid username-password")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceReport:
    """What was found out about one service.

    Args:
        service: ``"vault"``, ``"postgres"`` or ``"valkey"``.
        healthy: Whether everything is as it should be.
        reachable: Whether it answered; None when it could not be tried.
        authenticated: Whether it accepted the credentials; None when it could not be tried.
        version: What it says it is.
        latency: Seconds that a health check took.
        rls: PostgreSQL alone: what can be said of row-level security.
        detail: Where it is, or what is wrong.
    """

    service: str
    healthy: bool
    detail: str
    reachable: bool | None = None
    authenticated: bool | None = None
    version: str | None = None
    latency: float | None = None
    rls: str | None = None


def check_services(environ: Mapping[str, str] | None = None) -> list[ServiceReport]:
    """Try all three services.

    Args:
        environ: Where the ``VAULT_*`` variables are read; the process's environment when None.

    Returns:
        A report for each, also when the first of them already failed.
    """
    with ExitStack() as stack:
        try:
            vault = stack.enter_context(VaultClient(environ=environ))
            reports = [_healthy("vault", vault.health_check, vault.server_version, vault.addr)]
        except ClientError as error:
            untried = "not tried: its URL is in Vault"
            return [
                _failed("vault", error),
                ServiceReport(service="postgres", healthy=False, detail=untried),
                ServiceReport(service="valkey", healthy=False, detail=untried),
            ]
        reports.append(_try("postgres", lambda: _postgres(vault)))
        reports.append(_try("valkey", lambda: _valkey(vault)))
    return reports


def _try(service: str, check: Callable[[], ServiceReport]) -> ServiceReport:
    try:
        return check()
    except ClientError as error:
        return _failed(service, error)


def _postgres(vault: VaultClient) -> ServiceReport:
    with PostgresClient(
        vault.get_database_url, 1, admin_url=vault.get_database_admin_url, min_size=1
    ) as client:
        findings = client.check_rls()
        rls = "enforced" if not findings else f"{len(findings)} findings: python -m clients rls"
        return _healthy(
            "postgres",
            client.health_check,
            client.server_version,
            client.server,
            rls=rls,
            healthy=not findings,
        )


def _valkey(vault: VaultClient) -> ServiceReport:
    with ValkeyClient(vault.get_valkey_url) as client:
        return _healthy("valkey", client.health_check, client.server_version, client.server)


def _healthy(
    service: str,
    health_check: Callable[[], bool],
    server_version: Callable[[], str],
    detail: str,
    *,
    rls: str | None = None,
    healthy: bool = True,
) -> ServiceReport:
    started = time.perf_counter()
    health_check()
    latency = time.perf_counter() - started
    return ServiceReport(
        service=service,
        healthy=healthy,
        reachable=True,
        authenticated=True,
        version=server_version(),
        latency=latency,
        rls=rls,
        detail=detail,
    )


def _failed(service: str, error: ClientError) -> ServiceReport:
    refused_login = isinstance(error, VaultAuthenticationError) or any(
        words in str(error) for words in _LOGIN_WORDS
    )
    bypass = isinstance(error, RlsContextError)
    untried = isinstance(error, ConfigurationError | VaultSecretNotFoundError)
    return ServiceReport(
        service=service,
        healthy=False,
        reachable=None if untried else refused_login or bypass,
        authenticated=None if untried else bypass,
        rls="bypassed" if bypass else None,
        detail=str(error),
    )

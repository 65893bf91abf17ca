"""Fail-fast clients for Vault or OpenBao, PostgreSQL with row-level security, and Valkey.

A name is imported at its first use: a program that uses one client does not load the drivers of the
other two (PEP 562).
"""

from __future__ import annotations

import importlib
import typing

from .errors import (
    ClientError,
    ConfigurationError,
    NoRowsError,
    PostgresConfigurationError,
    PostgresConnectionError,
    PostgresError,
    RlsContextError,
    RowCountError,
    TransactionAbortedError,
    ValkeyConfigurationError,
    ValkeyConnectionError,
    ValkeyError,
    VaultAuthenticationError,
    VaultConfigurationError,
    VaultConnectionError,
    VaultError,
    VaultSecretNotFoundError,
    VaultSecretsError,
)

if typing.TYPE_CHECKING:
    from ._postgres.bulk import OnConflict
    from ._postgres.guarded import (
        GuardedConnection,
        GuardedCopy,
        GuardedCursor,
        GuardedTransaction,
    )
    from ._postgres.modes import Isolation
    from ._postgres.rls_context import UserId
    from ._postgres.rows import Expectation, Rows
    from ._postgres.settings import OnRlsBypass
    from ._rls.finding import Finding, Leak, Proof
    from ._shared.credential_life import CredentialLife
    from ._vault.cache import CacheStats
    from .factory import (
        Clients,
        HealthReport,
        PostgresOptions,
        ServiceHealth,
        ValkeyOptions,
        build_clients,
    )
    from .identity import RlsSetting, user_context
    from .postgres_client import PostgresClient, prove_isolation
    from .valkey_client import Pipeline, RateLimit, Session, SessionStore, ValkeyClient
    from .vault_auth import VaultAuth
    from .vault_client import LeasedUrl, VaultClient

__all__ = [
    "CacheStats",
    "ClientError",
    "Clients",
    "ConfigurationError",
    "CredentialLife",
    "Expectation",
    "Finding",
    "GuardedConnection",
    "GuardedCopy",
    "GuardedCursor",
    "GuardedTransaction",
    "HealthReport",
    "Isolation",
    "Leak",
    "LeasedUrl",
    "NoRowsError",
    "OnConflict",
    "OnRlsBypass",
    "Pipeline",
    "PostgresClient",
    "PostgresConfigurationError",
    "PostgresConnectionError",
    "PostgresError",
    "PostgresOptions",
    "Proof",
    "RateLimit",
    "RlsContextError",
    "RlsSetting",
    "RowCountError",
    "Rows",
    "ServiceHealth",
    "Session",
    "SessionStore",
    "TransactionAbortedError",
    "UserId",
    "ValkeyClient",
    "ValkeyConfigurationError",
    "ValkeyConnectionError",
    "ValkeyError",
    "ValkeyOptions",
    "VaultAuth",
    "VaultAuthenticationError",
    "VaultClient",
    "VaultConfigurationError",
    "VaultConnectionError",
    "VaultError",
    "VaultSecretNotFoundError",
    "VaultSecretsError",
    "build_clients",
    "prove_isolation",
    "user_context",
]

_HOMES = {
    "CacheStats": "_vault.cache",
    "Clients": "factory",
    "CredentialLife": "_shared.credential_life",
    "Expectation": "_postgres.rows",
    "Finding": "_rls.finding",
    "GuardedConnection": "_postgres.guarded",
    "GuardedCopy": "_postgres.guarded",
    "GuardedCursor": "_postgres.guarded",
    "GuardedTransaction": "_postgres.guarded",
    "HealthReport": "factory",
    "Isolation": "_postgres.modes",
    "Leak": "_rls.finding",
    "LeasedUrl": "vault_client",
    "OnConflict": "_postgres.bulk",
    "OnRlsBypass": "_postgres.settings",
    "Pipeline": "valkey_client",
    "PostgresClient": "postgres_client",
    "PostgresOptions": "factory",
    "Proof": "_rls.finding",
    "RateLimit": "valkey_client",
    "RlsSetting": "identity",
    "Rows": "_postgres.rows",
    "ServiceHealth": "factory",
    "Session": "valkey_client",
    "SessionStore": "valkey_client",
    "UserId": "_postgres.rls_context",
    "ValkeyClient": "valkey_client",
    "ValkeyOptions": "factory",
    "VaultAuth": "vault_auth",
    "VaultClient": "vault_client",
    "build_clients": "factory",
    "prove_isolation": "postgres_client",
    "user_context": "identity",
}

# Type checkers read the imports above, and would take any name for granted if they saw this.
if not typing.TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name in _HOMES.values():
            return importlib.import_module(f"{__name__}.{name}")
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})

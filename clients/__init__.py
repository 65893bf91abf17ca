"""Fail-fast clients for Vault or OpenBao, PostgreSQL with row-level security, and Valkey."""

from __future__ import annotations

from clients._credentials import CredentialLife
from clients.errors import (
    ClientError,
    ConfigurationError,
    NoRowsError,
    PostgresConfigurationError,
    PostgresConnectionError,
    PostgresError,
    RlsContextError,
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
from clients.factory import Clients, HealthReport, ServiceHealth, build_clients
from clients.postgres_client import PostgresClient
from clients.valkey_client import Pipeline, RateLimit, Session, SessionStore, ValkeyClient
from clients.vault_client import LeasedUrl, VaultClient

__all__ = [
    "ClientError",
    "Clients",
    "ConfigurationError",
    "CredentialLife",
    "HealthReport",
    "LeasedUrl",
    "NoRowsError",
    "Pipeline",
    "PostgresClient",
    "PostgresConfigurationError",
    "PostgresConnectionError",
    "PostgresError",
    "RateLimit",
    "RlsContextError",
    "ServiceHealth",
    "Session",
    "SessionStore",
    "TransactionAbortedError",
    "ValkeyClient",
    "ValkeyConfigurationError",
    "ValkeyConnectionError",
    "ValkeyError",
    "VaultAuthenticationError",
    "VaultClient",
    "VaultConfigurationError",
    "VaultConnectionError",
    "VaultError",
    "VaultSecretNotFoundError",
    "VaultSecretsError",
    "build_clients",
]

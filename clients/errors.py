"""Every error that this SDK raises, in one tree.

::

    ClientError                         every failure this SDK raises
      ConfigurationError                a setting is missing or unusable
        VaultConfigurationError         ... also a VaultError
        PostgresConfigurationError      ... also a PostgresError
        ValkeyConfigurationError        ... also a ValkeyError
      VaultError (= VaultSecretsError)  .reason, .status where there is one
        VaultSecretNotFoundError        .reason says what is missing
        VaultAuthenticationError        login refused, token invalid, permission denied
        VaultConnectionError            unreachable, timed out, sealed, uninitialised, 5xx
      PostgresError                     .sqlstate where the server gave one
        PostgresConnectionError         cannot get a working connection
        RlsContextError                 no user, bad user id, context lost, role bypasses RLS
        TransactionAbortedError         a block ended normally after a swallowed SQL error
        NoRowsError                     execute_scalar found no row; also a ValueError
      ValkeyError                       .code where the server gave one, .maybe_applied
        ValkeyConnectionError           unreachable, timed out, refused, pool exhausted

A message names the object, the state, the limit and the mend, and never a password, token or
secret value. Every class pickles with its attributes.
"""

from __future__ import annotations

__all__ = [
    "ClientError",
    "ConfigurationError",
    "NoRowsError",
    "PostgresConfigurationError",
    "PostgresConnectionError",
    "PostgresError",
    "RlsContextError",
    "TransactionAbortedError",
    "ValkeyConfigurationError",
    "ValkeyConnectionError",
    "ValkeyError",
    "VaultAuthenticationError",
    "VaultConfigurationError",
    "VaultConnectionError",
    "VaultError",
    "VaultSecretNotFoundError",
    "VaultSecretsError",
]


class ClientError(Exception):
    """Any failure that this SDK raises: catch it to catch them all."""


class ConfigurationError(ClientError):
    """A setting is missing or unusable; the message names it and says how to mend it."""


class VaultError(ClientError):
    """A secret could not be had.

    Args:
        message: What failed, on which object, and the mend.
        reason: A short machine-readable word, such as ``"sealed"`` or ``"missing"``.
        status: The HTTP status, where the server answered with one.
    """

    def __init__(
        self, message: str, *, reason: str | None = None, status: int | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.status = status


#: The name that the Dagster seed document gives to the base of the Vault errors.
VaultSecretsError = VaultError


class VaultConfigurationError(ConfigurationError, VaultError):
    """A Vault setting is missing or unusable: address, credentials, TLS files, path."""


class VaultSecretNotFoundError(VaultError):
    """There is nothing to read.

    ``reason`` is one of ``missing``, ``version_missing``, ``deleted``, ``destroyed``, ``mount``
    or ``namespace``.
    """


class VaultAuthenticationError(VaultError):
    """Vault refused the login or the token, or a policy denies the path; ``reason`` says which."""


class VaultConnectionError(VaultError):
    """Vault is unreachable, too slow, sealed, uninitialised, or failing with 5xx.

    Args:
        message: What failed, on which object, and the mend.
        reason: ``unreachable``, ``timeout``, ``sealed``, ``uninitialised``, ``rate_limited``,
            ``standby_behind``, ``server_error`` or ``not_vault``.
        status: The HTTP status, where the server answered with one.
        retry_after: Seconds that the server asked to wait, where it did.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, reason=reason, status=status)
        self.retry_after = retry_after


class PostgresError(ClientError):
    """A database operation failed.

    Args:
        message: What failed, on which object, and the mend.
        sqlstate: The five-character SQLSTATE, where the server gave one.
    """

    def __init__(self, message: str, *, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class PostgresConfigurationError(ConfigurationError, PostgresError):
    """A PostgreSQL setting is unusable: connection URL, pool size, time-out."""


class PostgresConnectionError(PostgresError):
    """No working connection could be had: refused, authentication, pool exhausted, lost."""


class RlsContextError(PostgresError):
    """Row-level security would not hold.

    There is no user or a bad one, the transaction lost its context, or the role bypasses RLS.
    """


class TransactionAbortedError(PostgresError):
    """A block ended normally although a swallowed SQL error had aborted its transaction.

    ``__cause__`` is that SQL error. Nothing of the block was committed.
    """


class NoRowsError(PostgresError, ValueError):
    """``execute_scalar`` found no row."""


class ValkeyError(ClientError):
    """A Valkey operation failed; the message names the key.

    Args:
        message: What failed, on which key, and the mend.
        code: The first word of the server's error, such as ``"WRONGTYPE"``, where it gave one.
        maybe_applied: True when a change was sent and its reply was lost: the server may have
            made it, so look before you repeat it.
    """

    def __init__(
        self, message: str, *, code: str | None = None, maybe_applied: bool = False
    ) -> None:
        super().__init__(message)
        self.code = code
        self.maybe_applied = maybe_applied


class ValkeyConfigurationError(ConfigurationError, ValkeyError):
    """A Valkey setting or argument is unusable: URL, expiry, key, value."""


class ValkeyConnectionError(ValkeyError):
    """Valkey is unreachable, too slow, refused the login, or every connection is in use."""

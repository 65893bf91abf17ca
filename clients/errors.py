"""Every error that this SDK raises, in one tree.

::

    ClientError                         every failure this SDK raises; .reason, .maybe_applied
      ConfigurationError                a setting is missing or unusable
        VaultConfigurationError         ... also a VaultError
        PostgresConfigurationError      ... also a PostgresError
        ValkeyConfigurationError        ... also a ValkeyError
      VaultError (= VaultSecretsError)  .status where there is one
        VaultSecretNotFoundError        .reason says what is missing
        VaultAuthenticationError        login refused, token invalid, permission denied
        VaultConnectionError            unreachable, timed out, sealed, uninitialised, 5xx
      PostgresError                     .sqlstate, .constraint, .table where the server named them
        PostgresConnectionError         cannot get a working connection; .reason says why
        RlsContextError                 no user, bad user id, context lost, role bypasses RLS
        TransactionAbortedError         a block ended normally after a swallowed SQL error
        NoRowsError                     execute_scalar found no row; also a ValueError
        RowCountError                   another number of rows than expected; .expected, .actual
      ValkeyError                       .code where the server gave one
        ValkeyConnectionError           unreachable, timed out, refused, pool exhausted

A message says what failed, where, the limit, and how to fix it, and never a password, token or
secret value. A program tells failures apart by class and attributes, never by the message. Every
class pickles with its attributes.
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
    "RowCountError",
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
    """Any failure that this SDK raises: catch it to catch them all.

    Args:
        message: What failed, where, the limit, and how to fix it.
        reason: A short word for programs, such as ``"sealed"`` or ``"exhausted"``; None where the
            class says it all.
        maybe_applied: True when a change was sent and its reply was lost: the server may have
            made it, so check before you repeat it.
    """

    def __init__(
        self, message: str = "", *, reason: str | None = None, maybe_applied: bool = False
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.maybe_applied = maybe_applied


class ConfigurationError(ClientError):
    """A setting is missing or unusable; the message names it and says how to fix it."""


class VaultError(ClientError):
    """A Vault operation failed.

    Args:
        message: What failed, where, the limit, and how to fix it.
        reason: A short word for programs, such as ``"sealed"`` or ``"missing"``.
        status: The HTTP status, where the server answered with one.
        maybe_applied: True when a change was sent and its reply was lost.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        status: int | None = None,
        maybe_applied: bool = False,
    ) -> None:
        super().__init__(message, reason=reason, maybe_applied=maybe_applied)
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
        message: What failed, where, the limit, and how to fix it.
        reason: ``unreachable``, ``timeout``, ``sealed``, ``uninitialised``, ``rate_limited``,
            ``standby_behind``, ``server_error``, ``not_vault`` or ``tls``.
        status: The HTTP status, where the server answered with one.
        retry_after: Seconds to wait that the server named, where it did.
        maybe_applied: True when a change was sent and its reply was lost.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        status: int | None = None,
        retry_after: float | None = None,
        maybe_applied: bool = False,
    ) -> None:
        super().__init__(message, reason=reason, status=status, maybe_applied=maybe_applied)
        self.retry_after = retry_after


class PostgresError(ClientError):
    """A database operation failed.

    Args:
        message: What failed, where, the limit, and how to fix it.
        sqlstate: The five-character SQLSTATE, where the server gave one.
        constraint: The constraint that was violated, where the server named one.
        table: The table that the error is about, where the server named one.
        reason: A short word for programs, such as ``"refused"`` or ``"exhausted"``.
        maybe_applied: True when a statement was sent and its reply was lost: it may have taken
            effect, so check before you repeat it.
    """

    def __init__(
        self,
        message: str,
        *,
        sqlstate: str | None = None,
        constraint: str | None = None,
        table: str | None = None,
        reason: str | None = None,
        maybe_applied: bool = False,
    ) -> None:
        super().__init__(message, reason=reason, maybe_applied=maybe_applied)
        self.sqlstate = sqlstate
        self.constraint = constraint
        self.table = table


class PostgresConfigurationError(ConfigurationError, PostgresError):
    """A PostgreSQL setting is unusable: connection URL, pool size, time-out."""


class PostgresConnectionError(PostgresError):
    """No working connection could be had, or it broke.

    ``reason`` is one of ``refused`` (nothing accepts connections there), ``address`` (the host has
    no address), ``timeout`` (nothing answered in time), ``tls``, ``login`` (the server refused user
    or password), ``database`` (no such database, or no right to connect to it), ``starting`` (the
    server starts, stops or recovers), ``exhausted`` (the pool's connections are all in use, or the
    server takes no more), ``resources`` (this process has no file descriptors left), ``settings``
    (libpq cannot use an option), ``server`` (the server refused for another reason; ``sqlstate``
    says which), ``session`` (it let the user in, and refused what every session begins with) or
    ``lost`` (the connection broke).
    """


class RlsContextError(PostgresError):
    """Row-level security would not hold.

    There is no user or a bad one, the transaction lost its context, or the role bypasses RLS.
    """


class TransactionAbortedError(PostgresError):
    """A block ended normally although a swallowed SQL error had aborted its transaction.

    ``__cause__`` is that SQL error. Nothing of the block was committed, unless a COMMIT in its SQL
    did: then ``maybe_applied`` is True.
    """


class NoRowsError(PostgresError, ValueError):
    """``execute_scalar`` found no row."""


class RowCountError(PostgresError):
    """Another number of rows came back, or was changed, than was expected; nothing was committed.

    Args:
        message: What failed, where, the limit, and how to fix it.
        expected: The number or range of rows that the caller named, or a name for it.
        actual: The number of rows that the statement returned or changed.
        sqlstate: The five-character SQLSTATE, where the server gave one.
        constraint: The constraint that was violated, where the server named one.
        table: The table that the error is about, where the server named one.
        reason: A short word for programs.
        maybe_applied: Never True by itself: the transaction was rolled back.
    """

    def __init__(
        self,
        message: str,
        *,
        expected: int | range | str = 0,
        actual: int = 0,
        sqlstate: str | None = None,
        constraint: str | None = None,
        table: str | None = None,
        reason: str | None = None,
        maybe_applied: bool = False,
    ) -> None:
        super().__init__(
            message,
            sqlstate=sqlstate,
            constraint=constraint,
            table=table,
            reason=reason,
            maybe_applied=maybe_applied,
        )
        self.expected = expected
        self.actual = actual


class ValkeyError(ClientError):
    """A Valkey operation failed; the message names the key.

    Args:
        message: What failed, on which key, the limit, and how to fix it.
        code: The first word of the server's error, such as ``"WRONGTYPE"``, where it gave one.
        reason: A short word for programs, such as ``"refused"`` or ``"exhausted"``.
        maybe_applied: True when a change was sent and its reply was lost: the server may have
            made it, so check before you repeat it.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        reason: str | None = None,
        maybe_applied: bool = False,
    ) -> None:
        super().__init__(message, reason=reason, maybe_applied=maybe_applied)
        self.code = code


class ValkeyConfigurationError(ConfigurationError, ValkeyError):
    """A Valkey setting or argument is unusable: URL, expiry, key, value."""


class ValkeyConnectionError(ValkeyError):
    """Valkey is unreachable, too slow, refused the login, or every connection is in use.

    ``reason`` is one of

    * ``refused``: no server took the connection, or it wants none of ours;
    * ``tls``: the TLS handshake failed;
    * ``login``: the user or the password was refused, or one is missing;
    * ``timeout``: the server did not answer in time;
    * ``lost``: the connection broke before the reply was there;
    * ``exhausted``: all connections stayed in use for ``pool_timeout``;
    * ``not_ready``: the server loads its data, or a fail-over is going on;
    * ``protocol``: what answered is no Valkey, or answered something that the command does not
      have.
    """

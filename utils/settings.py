"""The settings that come from the environment; no other module reads it.

Each class is a frozen value made by ``from_env``, which takes any mapping (the process's
environment when none is given), so tests and frameworks inject their own. Nothing is read when
this module is imported. A variable that is set but empty counts as unset.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["StackSettings", "VaultSettings", "child_environment", "forget_ambient_servers"]

# Through these, drivers and command line tools learn of servers, credentials and options behind
# our back: libpq takes PGSSLMODE and PGOPTIONS for what a URL leaves open.
_AMBIENT = ("VAULT_", "BAO_", "PG", "REDIS_", "VALKEY_")

_TRUE = frozenset({"1", "t", "true", "yes", "on"})
_FALSE = frozenset({"", "0", "f", "false", "no", "off"})


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultSettings:
    """What the ``VAULT_*`` variables say; secrets stay out of the repr.

    Args:
        addr: ``VAULT_ADDR``, the server's URL.
        token: ``VAULT_TOKEN``.
        namespace: ``VAULT_NAMESPACE``.
        role_id: ``VAULT_ROLE_ID``, for AppRole login.
        secret_id: ``VAULT_SECRET_ID``, for AppRole login.
        cacert: ``VAULT_CACERT``, a file with the CA certificates to trust.
        client_cert: ``VAULT_CLIENT_CERT``, a file with the client's certificate.
        client_key: ``VAULT_CLIENT_KEY``, a file with that certificate's key.
        skip_verify: ``VAULT_SKIP_VERIFY``, true to accept any server certificate.
    """

    addr: str | None = None
    token: str | None = field(default=None, repr=False)
    namespace: str | None = None
    role_id: str | None = None
    secret_id: str | None = field(default=None, repr=False)
    cacert: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    skip_verify: bool = False

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read the ``VAULT_*`` variables.

        Args:
            environ: Where to read them; the process's environment when None.

        Returns:
            The settings; a variable that is unset or empty is None.

        Raises:
            ConfigurationError: ``VAULT_SKIP_VERIFY`` is no boolean.
        """
        return cls(
            addr=_text(environ, "VAULT_ADDR"),
            token=_text(environ, "VAULT_TOKEN"),
            namespace=_text(environ, "VAULT_NAMESPACE"),
            role_id=_text(environ, "VAULT_ROLE_ID"),
            secret_id=_text(environ, "VAULT_SECRET_ID"),
            cacert=_text(environ, "VAULT_CACERT"),
            client_cert=_text(environ, "VAULT_CLIENT_CERT"),
            client_key=_text(environ, "VAULT_CLIENT_KEY"),
            skip_verify=_boolean("VAULT_SKIP_VERIFY", _text(environ, "VAULT_SKIP_VERIFY")),
        )

    def missing_names(self, auth_method: str) -> list[str]:
        """Name every variable that a login by *auth_method* needs and that is not set.

        Args:
            auth_method: ``"token"`` or ``"approle"``.

        Returns:
            The names, all of them and not only the first, so that one error can list them.
        """
        needed = {"VAULT_ADDR": self.addr}
        if auth_method == "approle":
            needed |= {"VAULT_ROLE_ID": self.role_id, "VAULT_SECRET_ID": self.secret_id}
        else:
            needed["VAULT_TOKEN"] = self.token
        return [name for name, value in needed.items() if not value]


@dataclass(frozen=True, slots=True, kw_only=True)
class StackSettings:
    """Where the development stack's servers come from.

    Args:
        kind: ``STACK``: ``"embedded"``, ``"docker"`` or ``"external"``.
        vault_port: ``SDK_VAULT_PORT``, the host port that Docker publishes for Vault.
        postgres_port: ``SDK_POSTGRES_PORT``, likewise for PostgreSQL.
        valkey_port: ``SDK_VALKEY_PORT``, likewise for Valkey.
    """

    kind: str = "embedded"
    vault_port: int = 8200
    postgres_port: int = 5432
    valkey_port: int = 6379

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read ``STACK`` and the ``SDK_*_PORT`` variables.

        Args:
            environ: Where to read them; the process's environment when None.

        Returns:
            The settings.

        Raises:
            ConfigurationError: ``STACK`` is none of the three, or a port is no port.
        """
        kind = _text(environ, "STACK") or "embedded"
        if kind not in {"embedded", "docker", "external"}:
            raise _configuration_error(
                f"STACK is {kind!r}: it must be 'embedded', 'docker' or 'external'"
            )
        return cls(
            kind=kind,
            vault_port=_port("SDK_VAULT_PORT", environ, 8200),
            postgres_port=_port("SDK_POSTGRES_PORT", environ, 5432),
            valkey_port=_port("SDK_VALKEY_PORT", environ, 6379),
        )


def child_environment(overrides: Mapping[str, str]) -> dict[str, str]:
    """Return the process's environment for a child process, with *overrides* laid over it.

    Args:
        overrides: Variables to set. When they name a Vault, nothing that leads to other servers
            stays beside them: no ``VAULT_*``, ``BAO_*``, ``PG*``, ``REDIS_*`` or ``VALKEY_*``.
    """
    stays = {
        name: value
        for name, value in os.environ.items()
        if not ("VAULT_ADDR" in overrides and name.startswith(_AMBIENT))
    }
    return stays | dict(overrides)


def forget_ambient_servers() -> dict[str, str]:
    """Remove from the process's environment whatever leads to servers that are not ours.

    For programs that own their process: the development stack and its tests.

    Returns:
        What was removed.
    """
    return {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(_AMBIENT)}


def _text(environ: Mapping[str, str] | None, name: str) -> str | None:
    # The environment itself stays out of the frames that may fail: error reporters collect their
    # local variables, and it holds the token.
    return (os.environ if environ is None else environ).get(name, "").strip() or None


def _boolean(name: str, value: str | None) -> bool:
    word = (value or "").lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise _configuration_error(f"{name} is {value!r}: it must be 'true' or 'false'")


def _port(name: str, environ: Mapping[str, str] | None, default: int) -> int:
    text = _text(environ, name)
    if text is None:
        return default
    largest = 65535
    if text.isascii() and text.isdigit() and 0 < int(text) <= largest:
        return int(text)
    raise _configuration_error(f"{name} is {text!r}: it must be a port from 1 to {largest}")


def _configuration_error(message: str) -> Exception:
    # Imported late: `clients` imports this module, and a failure needs its error class.
    from clients.errors import ConfigurationError  # noqa: PLC0415 - see above

    return ConfigurationError(message)

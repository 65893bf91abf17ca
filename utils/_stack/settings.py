"""The development stack's settings, and the environment of the processes that it starts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from clients._shared.environment import variable
from clients.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["StackSettings", "child_environment", "forget_ambient_servers"]

# Drivers and command line tools read servers, credentials and options from these: libpq takes
# PGSSLMODE and PGOPTIONS for what a URL leaves open.
_AMBIENT = ("VAULT_", "BAO_", "PG", "REDIS_", "VALKEY_", "STACK_")


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
        kind = variable(environ, "STACK") or "embedded"
        if kind not in {"embedded", "docker", "external"}:
            raise ConfigurationError(
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
            stays beside them: no ``VAULT_*``, ``BAO_*``, ``PG*``, ``REDIS_*``, ``VALKEY_*`` or
            ``STACK_*``.
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


def _port(name: str, environ: Mapping[str, str] | None, default: int) -> int:
    text = variable(environ, name)
    if text is None:
        return default
    largest = 65535
    if text.isascii() and text.isdigit() and 0 < int(text) <= largest:
        return int(text)
    raise ConfigurationError(f"{name} is {text!r}: it must be a port from 1 to {largest}")

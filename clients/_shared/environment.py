"""The settings that come from the environment; no other module reads it.

Each class is a frozen value made by ``from_env``, which takes any mapping (the process's
environment when none is given), so tests and frameworks inject their own. Nothing is read when
this module is imported. A variable that is set but empty counts as unset.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from ..errors import ConfigurationError
from .secrecy import Masked
from .validation import boolean_in, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["VaultSettings", "identity_settings", "secret_paths", "variable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultSettings:
    """What the ``VAULT_*`` variables say; secrets stay out of the repr.

    Where a variable is unset, OpenBao's own name counts: ``BAO_ADDR``, ``BAO_TOKEN``,
    ``BAO_NAMESPACE``, ``BAO_CACERT``, ``BAO_SKIP_VERIFY``.

    Args:
        addr: ``VAULT_ADDR``, the server's URL.
        token: ``VAULT_TOKEN``.
        token_file: ``VAULT_TOKEN_FILE``, a file with the token; with ``VAULT_AUTH_METHOD=jwt``
            the file with the JWT.
        namespace: ``VAULT_NAMESPACE``.
        role_id: ``VAULT_ROLE_ID``, for AppRole login.
        secret_id: ``VAULT_SECRET_ID``, for AppRole login.
        secret_id_file: ``VAULT_SECRET_ID_FILE``, a file with the secret id.
        wrapped_secret_id: ``VAULT_WRAPPED_SECRET_ID``, a wrapping token that holds it.
        auth_method: ``VAULT_AUTH_METHOD``, how to log in.
        auth_role: ``VAULT_AUTH_ROLE``, the role for ``kubernetes``, ``jwt`` and ``cert``.
        auth_mount: ``VAULT_AUTH_MOUNT``, where the auth method is mounted.
        cacert: ``VAULT_CACERT``, a file with the CA certificates to trust.
        client_cert: ``VAULT_CLIENT_CERT``, a file with the client's certificate.
        client_key: ``VAULT_CLIENT_KEY``, a file with that certificate's key.
        skip_verify: ``VAULT_SKIP_VERIFY``, true to accept any server certificate.
    """

    addr: Masked | None = None
    token: Masked | None = None
    token_file: str | None = None
    namespace: str | None = None
    role_id: Masked | None = None
    secret_id: Masked | None = None
    secret_id_file: str | None = None
    wrapped_secret_id: Masked | None = None
    auth_method: str | None = None
    auth_role: str | None = None
    auth_mount: str | None = None
    cacert: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    skip_verify: bool = False

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read the variables.

        Args:
            environ: Where to read them; the process's environment when None.

        Returns:
            The settings; a variable that is unset or empty is None.

        Raises:
            ConfigurationError: ``VAULT_SKIP_VERIFY`` is no boolean.
        """
        skip_name = "VAULT_SKIP_VERIFY"
        if variable(environ, skip_name) is None:
            skip_name = "BAO_SKIP_VERIFY"
        return cls(
            addr=_secret(environ, "VAULT_ADDR") or _secret(environ, "BAO_ADDR"),
            token=_secret(environ, "VAULT_TOKEN") or _secret(environ, "BAO_TOKEN"),
            token_file=variable(environ, "VAULT_TOKEN_FILE"),
            namespace=variable(environ, "VAULT_NAMESPACE") or variable(environ, "BAO_NAMESPACE"),
            role_id=_secret(environ, "VAULT_ROLE_ID"),
            secret_id=_secret(environ, "VAULT_SECRET_ID"),
            secret_id_file=variable(environ, "VAULT_SECRET_ID_FILE"),
            wrapped_secret_id=_secret(environ, "VAULT_WRAPPED_SECRET_ID"),
            auth_method=variable(environ, "VAULT_AUTH_METHOD"),
            auth_role=variable(environ, "VAULT_AUTH_ROLE"),
            auth_mount=variable(environ, "VAULT_AUTH_MOUNT"),
            cacert=variable(environ, "VAULT_CACERT") or variable(environ, "BAO_CACERT"),
            client_cert=variable(environ, "VAULT_CLIENT_CERT"),
            client_key=variable(environ, "VAULT_CLIENT_KEY"),
            skip_verify=_boolean(skip_name, variable(environ, skip_name)),
        )


def secret_paths(environ: Mapping[str, str] | None = None) -> tuple[str | None, str | None]:
    """Return ``FAILFAST_DATABASE_PATH`` and ``FAILFAST_VALKEY_PATH``: where the URLs are in Vault.

    Args:
        environ: Where to read them; the process's environment when None.
    """
    return variable(environ, "FAILFAST_DATABASE_PATH"), variable(environ, "FAILFAST_VALKEY_PATH")


def identity_settings(environ: Mapping[str, str] | None = None) -> list[str]:
    """Return the parts of ``FAILFAST_IDENTITY``: for each value of the identity its setting.

    It is for the command line alone: what an application's identity is stands in its code.

    Args:
        environ: Where to read it; the process's environment when None.
    """
    text = variable(environ, "FAILFAST_IDENTITY") or ""
    return [part.strip() for part in text.split(",") if part.strip()]


def variable(environ: Mapping[str, str] | None, name: str) -> str | None:
    """Return a variable's text; None when it is unset or empty.

    Args:
        environ: Where to read it; the process's environment when None.
        name: The variable's name.
    """
    # The environment itself stays out of the frames that may fail: error reporters collect their
    # local variables, and it holds the token.
    return (os.environ if environ is None else environ).get(name, "").strip() or None


def _secret(environ: Mapping[str, str] | None, name: str) -> Masked | None:
    value = variable(environ, name)
    return None if value is None else Masked(value)


def _boolean(name: str, value: str | None) -> bool:
    found = False if value is None else boolean_in(value)
    if found is None:
        raise ConfigurationError(f"{name} is {shown(value)}: it must be 'true' or 'false'")
    return found

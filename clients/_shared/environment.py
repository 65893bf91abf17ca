"""The settings that come from the environment; no other module reads it.

Each class is a frozen value made by ``from_env``, which takes any mapping (the process's
environment when none is given), so tests and frameworks inject their own. Nothing is read when
this module is imported. A variable that is set but empty counts as unset.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["VaultSettings", "variable"]

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
            addr=variable(environ, "VAULT_ADDR"),
            token=variable(environ, "VAULT_TOKEN"),
            namespace=variable(environ, "VAULT_NAMESPACE"),
            role_id=variable(environ, "VAULT_ROLE_ID"),
            secret_id=variable(environ, "VAULT_SECRET_ID"),
            cacert=variable(environ, "VAULT_CACERT"),
            client_cert=variable(environ, "VAULT_CLIENT_CERT"),
            client_key=variable(environ, "VAULT_CLIENT_KEY"),
            skip_verify=_boolean("VAULT_SKIP_VERIFY", variable(environ, "VAULT_SKIP_VERIFY")),
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


def variable(environ: Mapping[str, str] | None, name: str) -> str | None:
    """Return a variable's text; None when it is unset or empty.

    Args:
        environ: Where to read it; the process's environment when None.
        name: The variable's name.
    """
    # The environment itself stays out of the frames that may fail: error reporters collect their
    # local variables, and it holds the token.
    return (os.environ if environ is None else environ).get(name, "").strip() or None


def _boolean(name: str, value: str | None) -> bool:
    word = (value or "").lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ConfigurationError(f"{name} is {value!r}: it must be 'true' or 'false'")

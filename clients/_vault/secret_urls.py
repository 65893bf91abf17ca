"""The two connection secrets that ``build_clients()`` and the command line read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from .._shared.credential_life import CredentialLife
from .._shared.environment import secret_paths
from ..errors import VaultError
from .fields import SecretFields
from .paths import split_mount
from .typed_secrets import DATABASE, VALKEY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..vault_client import VaultClient

__all__ = ["SecretUrls"]

#: The field of PostgreSQL's secret that has the key of the identity.
_IDENTITY_KEY = "identity_key"


class SecretUrls:
    """The connection URLs of PostgreSQL and Valkey, as callables for their clients.

    Args:
        vault: Where they are.
        database_path: PostgreSQL's secret; ``crm/database`` when None.
        valkey_path: Valkey's secret; ``crm/valkey`` when None.
    """

    def __init__(
        self, vault: VaultClient, database_path: str | None, valkey_path: str | None
    ) -> None:
        self._vault = vault
        self.database_path = DATABASE if database_path is None else database_path
        self.valkey_path = VALKEY if valkey_path is None else valkey_path

    @classmethod
    def of(
        cls,
        vault: VaultClient,
        environ: Mapping[str, str] | None,
        database_path: str | None = None,
        valkey_path: str | None = None,
    ) -> Self:
        """Return them for the paths given, else for those of the environment."""
        paths = secret_paths(environ)
        return cls(vault, database_path or paths[0], valkey_path or paths[1])

    def database(self, role: str | None) -> Callable[..., str]:
        """Return what gives PostgreSQL's URL; with a *role* the login need not be in it."""

        def database_url(*, use_cache: bool = True) -> str:
            return self._vault.get_database_url(
                path=self.database_path, use_cache=use_cache, login_required=role is None
            )

        return database_url

    def database_admin(self, *, use_cache: bool = True) -> str | None:
        """Return the administrator's URL, None where there is none.

        Raises:
            VaultError: As for ``get_database_admin_url``.
        """
        return self._vault.get_database_admin_url(path=self.database_path, use_cache=use_cache)

    def has_identity_key(self) -> bool:
        """Return whether PostgreSQL's secret has the field ``identity_key``.

        Raises:
            VaultError: The secret cannot be read.
        """
        return _IDENTITY_KEY in self._database_fields(use_cache=True).names()

    def identity_key(self, *, use_cache: bool = True) -> str:
        """Return what the identity is signed with, as hexadecimal text.

        Raises:
            VaultError: The secret cannot be read, or has no such field any more.
        """
        return self._database_fields(use_cache=use_cache).text(_IDENTITY_KEY).strip()

    def _database_fields(self, *, use_cache: bool) -> SecretFields:
        mount, inside = split_mount(self.database_path)
        path = self.database_path
        return SecretFields(
            self._vault.get_secret(inside, use_cache=use_cache, mount_point=mount), path
        )

    def valkey(self, *, use_cache: bool = True) -> str:
        """Return Valkey's URL.

        Raises:
            VaultError: As for ``get_valkey_url``.
        """
        return self._vault.get_valkey_url(path=self.valkey_path, use_cache=use_cache)

    def life(self, path: str) -> CredentialLife | None:
        """Return the age of what is stored at *path*; None where Vault notes no times.

        Raises:
            VaultError: As for ``secret_age``.
        """
        mount, inside = split_mount(path)
        try:
            return CredentialLife(self._vault.secret_age(inside, mount_point=mount))
        except VaultError as error:
            if error.reason != "kv_version":
                raise
            return None

"""A Vault client that reads from a dict, for tests of assets. No Dagster is imported."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from .._vault.paths import folder_path, secret_path, split_mount
from ..errors import VaultConnectionError, VaultSecretNotFoundError
from ..vault_client import VaultClient

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._vault.paths import SecretPath

__all__ = ["FakeVaultClient"]

_MOUNT = "secret"


class FakeVaultClient(VaultClient):
    """Answers from *secrets* and never from a server; what is built on reads is VaultClient's.

    Args:
        secrets: The fields of each secret, by path, or by ``mount:path``.
        healthy: False lets every call fail as if Vault were unreachable.
    """

    def __init__(self, secrets: Mapping[str, Mapping[str, Any]], *, healthy: bool = True) -> None:
        # VaultClient's constructor would log in.
        self._secrets: dict[SecretPath, dict[str, Any]] = {}
        for name, fields in secrets.items():
            mount, path = split_mount(name)
            self._secrets[secret_path(mount or _MOUNT, path)] = dict(fields)
        self._healthy = healthy

    def __repr__(self) -> str:
        return f"<FakeVaultClient with {len(self._secrets)} secrets>"

    def get_secret(
        self,
        path: str,
        version: int | None = None,
        use_cache: bool = True,  # noqa: ARG002, FBT001, FBT002 - as in VaultClient
        *,
        mount_point: str | None = None,
    ) -> dict[str, Any]:
        """Return a copy of the secret; it has one version, the first.

        Raises:
            VaultSecretNotFoundError: There is no such secret or version.
        """
        self._check_healthy()
        place = secret_path(mount_point or _MOUNT, path)
        if place not in self._secrets:
            raise VaultSecretNotFoundError(
                f"the fake Vault has no secret {place}: add it to secrets=", reason="missing"
            )
        if version not in {None, 1}:
            raise VaultSecretNotFoundError(
                f"the fake Vault's secret {place} has no version {version!r}, only version 1",
                reason="version_missing",
            )
        return copy.deepcopy(self._secrets[place])

    def list_secrets(self, path: str, *, mount_point: str | None = None) -> list[str]:
        """Return the names in a folder; those of folders end in a slash.

        Raises:
            VaultSecretNotFoundError: There is no such folder.
        """
        self._check_healthy()
        place = folder_path(mount_point or _MOUNT, path)
        prefix = f"{place.path}/" if place.path else ""
        below = [
            one.path.removeprefix(prefix)
            for one in self._secrets
            if one.mount == place.mount and one.path.startswith(prefix)
        ]
        names = {
            f"{head}/" if rest else head for head, _, rest in (s.partition("/") for s in below)
        }
        if not names:
            raise VaultSecretNotFoundError(
                f"the fake Vault has no folder {place}: add a secret in it to secrets=",
                reason="missing",
            )
        return sorted(names)

    def health_check(self) -> bool:
        """Return True.

        Raises:
            VaultConnectionError: The fake was made with ``healthy=False``.
        """
        self._check_healthy()
        return True

    def clear_cache(self) -> None:
        """Do nothing: a dict needs no cache."""

    def close(self) -> None:
        """Do nothing: nothing is open."""

    def _check_healthy(self) -> None:
        if not self._healthy:
            raise VaultConnectionError(
                "the fake Vault is unreachable, because healthy=False", reason="unreachable"
            )

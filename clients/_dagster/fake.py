"""A Vault client that reads from a dict, for tests of assets. No Dagster is imported."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from .._vault.paths import folder_path, secret_path
from ..errors import VaultConnectionError, VaultSecretNotFoundError
from ..vault_client import VaultClient

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FakeVaultClient"]

_MOUNT = "secret"


class FakeVaultClient(VaultClient):
    """Answers from *secrets* and never from a server; what is built on reads is VaultClient's.

    Args:
        secrets: The fields of each secret, by path.
        healthy: False lets every call fail as if Vault were unreachable.
    """

    def __init__(self, secrets: Mapping[str, Mapping[str, Any]], *, healthy: bool = True) -> None:
        # VaultClient's constructor would log in.
        self._secrets = {
            secret_path(_MOUNT, path).path: dict(fields) for path, fields in secrets.items()
        }
        self._healthy = healthy

    def __repr__(self) -> str:
        return f"<FakeVaultClient with {len(self._secrets)} secrets>"

    def get_secret(
        self,
        path: str,
        version: int | None = None,
        use_cache: bool = True,  # noqa: ARG002, FBT001, FBT002 - as in VaultClient
    ) -> dict[str, Any]:
        """Return a copy of the secret; it has one version, the first.

        Raises:
            VaultSecretNotFoundError: There is no such secret or version.
        """
        self._check_healthy()
        place = secret_path(_MOUNT, path)
        if place.path not in self._secrets:
            raise VaultSecretNotFoundError(
                f"the fake Vault has no secret {place}: add it to secrets=", reason="missing"
            )
        if version not in {None, 1}:
            raise VaultSecretNotFoundError(
                f"the fake Vault's secret {place} has no version {version!r}, only version 1",
                reason="version_missing",
            )
        return copy.deepcopy(self._secrets[place.path])

    def list_secrets(self, path: str) -> list[str]:
        """Return the names in a folder; those of folders end in a slash.

        Raises:
            VaultSecretNotFoundError: There is no such folder.
        """
        self._check_healthy()
        place = folder_path(_MOUNT, path)
        prefix = f"{place.path}/" if place.path else ""
        below = [one.removeprefix(prefix) for one in self._secrets if one.startswith(prefix)]
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

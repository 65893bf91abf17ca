"""Secrets of KV mounts of version 1 and version 2, told apart once for each mount.

Sources: https://openbao.org/api-docs/secret/kv/kv-v1/ and kv-v2/, and for the lookup of a mount
https://openbao.org/api-docs/system/internal-ui-mounts/.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ..errors import (
    VaultAuthenticationError,
    VaultConfigurationError,
    VaultConnectionError,
    VaultError,
    VaultSecretNotFoundError,
)
from .api import (
    DEEPEST,
    kv_version_in,
    list_folder,
    look_up_mount,
    read_secret,
    secret_in,
    written_at,
)
from .errors import Operation, not_vault

if TYPE_CHECKING:
    from .paths import SecretPath
    from .retry import Deadline
    from .session import VaultSession

__all__ = ["KvMounts"]

_KvVersion: TypeAlias = Literal[1, 2]

#: Seconds until a mount that could not be looked up is looked up again, and until one of version
#: 1, where nothing was found, is: it may have been upgraded.
_LOOKUP_PAUSE = 60.0


class _OtherVersionError(VaultConnectionError):
    """An answer that has not the shape of a secret of this version."""


class KvMounts:
    """Reads secrets, whatever the version of their mount.

    Args:
        session: This process's connection to Vault.
    """

    def __init__(self, session: VaultSession) -> None:
        self._session = session
        self._versions: dict[str, _KvVersion] = {}
        self._next_lookup: dict[str, float] = {}

    def read(self, place: SecretPath, version: int | None, deadline: Deadline) -> dict[str, Any]:
        """Return the fields of a secret.

        Args:
            place: The mount and the path in it.
            version: A version of the secret; the latest one when None.
            deadline: When it must be over.

        Raises:
            VaultConfigurationError: A version was named, and the mount keeps none.
            VaultError: As for ``get_secret``.
        """
        kv = self._versions.get(place.mount)
        if kv is None:
            # Nearly all mounts are of version 2, and an answer proves it: that costs no lookup.
            found = self._read_at_once(place, version, deadline)
            if found is not None:
                return found
            kv = self._looked_up(place.mount, deadline)
        if kv is None:
            return self._read_of_unknown(place, version, deadline)
        if kv == 1:
            return self._read_1(place, version, deadline)
        return self._read_2(place, version, deadline)

    def names(self, place: SecretPath, deadline: Deadline) -> list[str]:
        """Return the names in a folder.

        Raises:
            VaultError: As for ``list_secrets``.
        """
        kv = self._versions.get(place.mount) or self._looked_up(place.mount, deadline)
        try:
            return self._names(place, kv or 2, deadline)
        except (VaultAuthenticationError, VaultSecretNotFoundError) as error:
            if kv is not None or error.reason not in {"missing", "permission_denied"}:
                raise
            failure = error
        try:
            return self._names(place, 1, deadline, relogin=False)
        except VaultError:
            raise failure from failure.__cause__

    def age(self, place: SecretPath, deadline: Deadline) -> float | None:
        """Return the seconds since a secret was written; None where its mount does not note that.

        Raises:
            VaultError: As for ``get_secret``.
        """
        if self._versions.get(place.mount) is None:
            self.read(place, None, deadline)
        if self._versions.get(place.mount) == 1:
            self.read(place, None, deadline)
            return None
        operation = self._operation("read", place, 2)
        # The answer is kept out of this frame: it holds the secret.
        written = written_at(
            self._session.request(
                operation, lambda adapter: read_secret(adapter, place, None), deadline
            )
        )
        if written is None:
            raise not_vault(operation, "HTTP 200 without the metadata of KV version 2")
        return max(0.0, time.time() - written)

    def _read_at_once(
        self, place: SecretPath, version: int | None, deadline: Deadline
    ) -> dict[str, Any] | None:
        """Return the secret where the mount shows itself to be of version 2, else None."""
        try:
            secret = self._send(place, 2, version, deadline, relogin=False)
        except VaultAuthenticationError:
            return None
        except VaultSecretNotFoundError as error:
            if error.reason not in {"missing", "version_missing", "mount"}:
                raise
            return None
        except _OtherVersionError:
            return None
        self._versions[place.mount] = 2
        return secret

    def _looked_up(self, mount: str, deadline: Deadline) -> _KvVersion | None:
        """Return the mount's version; None where the server does not tell it."""
        if time.monotonic() < self._next_lookup.get(mount, float("-inf")):
            return None
        self._next_lookup[mount] = time.monotonic() + _LOOKUP_PAUSE
        operation = Operation(
            kind="mount", text=f"look up the mount {mount!r}", addr=self._session.options.addr
        )
        try:
            kind, kv = kv_version_in(
                self._session.request(
                    operation, lambda adapter: look_up_mount(adapter, mount), deadline
                )
            )
        except VaultSecretNotFoundError:
            return None
        except VaultAuthenticationError as error:
            # A login that was refused is the answer, and nothing to try again by reading.
            if error.reason not in {"permission_denied", "token_invalid"}:
                raise
            return None
        if kind is not None and kv is None:
            raise VaultSecretNotFoundError(
                f"{operation}: it is mounted there, but as {kind!r} and not as a KV engine; check "
                "mount_point",
                reason="mount",
            )
        if kv is not None:
            self._versions[mount] = kv
        return kv

    def _read_2(self, place: SecretPath, version: int | None, deadline: Deadline) -> dict[str, Any]:
        try:
            return self._send(place, 2, version, deadline)
        except VaultSecretNotFoundError as error:
            if error.reason != "version_missing":
                raise
            missing = error
        # The server says the same of a missing version and of a missing secret.
        try:
            self._send(place, 2, None, deadline)
        except VaultSecretNotFoundError as error:
            if error.reason == "missing":
                raise
        except VaultError:
            pass
        raise missing

    def _read_1(self, place: SecretPath, version: int | None, deadline: Deadline) -> dict[str, Any]:
        if version is not None:
            raise VaultConfigurationError(
                f"version is {version}: the mount {place.mount!r} is of KV version 1, which keeps "
                "the latest version alone",
                reason="setting",
            )
        try:
            return self._send(place, 1, None, deadline)
        except VaultSecretNotFoundError:
            if time.monotonic() >= self._next_lookup.get(place.mount, float("-inf")):
                self._versions.pop(place.mount, None)
            raise

    def _read_of_unknown(
        self, place: SecretPath, version: int | None, deadline: Deadline
    ) -> dict[str, Any]:
        try:
            secret = self._read_2(place, version, deadline)
        except (VaultAuthenticationError, VaultSecretNotFoundError) as error:
            if version is not None or error.reason not in {"missing", "permission_denied"}:
                raise
            failure = error
        else:
            self._versions[place.mount] = 2
            return secret
        try:
            secret = self._send(place, 1, None, deadline, relogin=False)
        except VaultError:
            raise failure from failure.__cause__
        self._versions[place.mount] = 1
        return secret

    def _send(
        self,
        place: SecretPath,
        kv: _KvVersion,
        version: int | None,
        deadline: Deadline,
        *,
        relogin: bool = True,
    ) -> dict[str, Any]:
        operation = self._operation("read", place, kv, version)
        # The answer is kept out of this frame: in an unexpected shape it is a secret all the same.
        found = secret_in(
            self._session.request(
                operation,
                lambda adapter: read_secret(adapter, place, version, kv=kv),
                deadline,
                relogin=relogin,
            ),
            kv=kv,
        )
        if isinstance(found, dict):
            return found
        if found == "other":
            nothing = not_vault(operation, f"HTTP 200 without a secret of KV version {kv}")
            raise _OtherVersionError(str(nothing), reason=nothing.reason)
        raise not_vault(operation, f"HTTP 200 with more than {DEEPEST} levels of a secret")

    def _names(
        self, place: SecretPath, kv: _KvVersion, deadline: Deadline, *, relogin: bool = True
    ) -> list[str]:
        operation = self._operation("list", place, kv)
        body = self._session.request(
            operation, lambda adapter: list_folder(adapter, place, kv=kv), deadline, relogin=relogin
        )
        data = body.get("data")
        keys = data.get("keys") if isinstance(data, dict) else None
        if not isinstance(keys, list):
            raise not_vault(operation, "HTTP 200 without keys")
        return [str(key) for key in keys]

    def _operation(
        self,
        kind: Literal["read", "list"],
        place: SecretPath,
        kv: _KvVersion,
        version: int | None = None,
    ) -> Operation:
        which = "" if version is None else f", version {version}"
        text = f"read the secret {place}{which}" if kind == "read" else f"list the folder {place}"
        return Operation(
            kind=kind,
            text=text,
            addr=self._session.options.addr,
            path=place,
            version=version,
            kv=kv,
        )

"""The requests that a client makes, as typed functions over hvac's untyped API classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from hvac.api import SystemBackend
from hvac.api.auth_methods import AppRole, Token
from hvac.api.secrets_engines import KvV2

if TYPE_CHECKING:
    from .paths import SecretPath
    from .settings import Masked
    from .transport import Body, VaultAdapter

__all__ = [
    "approle_login",
    "list_folder",
    "lookup_self",
    "read_database_credential",
    "read_health",
    "read_secret",
    "renew_lease",
    "renew_self",
    "revoke_lease",
    "revoke_self",
]

_OK = 200


def read_secret(adapter: VaultAdapter, place: SecretPath, version: int | None) -> Body:
    """Read one version of a secret, the latest when None."""
    api: Any = KvV2(adapter)
    body: Body = api.read_secret_version(
        place.path, version=version, mount_point=place.mount, raise_on_deleted_version=True
    )
    return body


def list_folder(adapter: VaultAdapter, place: SecretPath) -> Body:
    """List the names in a folder."""
    api: Any = KvV2(adapter)
    body: Body = api.list_secrets(place.path, mount_point=place.mount)
    return body


def approle_login(adapter: VaultAdapter, role_id: Masked, secret_id: Masked) -> Body:
    """Log in by AppRole."""
    api: Any = AppRole(adapter)
    body: Body = api.login(role_id.reveal(), secret_id.reveal(), use_token=False)
    return body


def lookup_self(adapter: VaultAdapter) -> Body:
    """Look up the token that the request shows."""
    api: Any = Token(adapter)
    body: Body = api.lookup_self()
    return body


def renew_self(adapter: VaultAdapter) -> Body:
    """Renew the token that the request shows."""
    api: Any = Token(adapter)
    body: Body = api.renew_self()
    return body


def revoke_self(adapter: VaultAdapter) -> Body:
    """Revoke the token that the request shows."""
    api: Any = Token(adapter)
    body: Body = api.revoke_self()
    return body


def read_database_credential(adapter: VaultAdapter, path: str) -> Body:
    """Get the user and the password of a role of the database secrets engine, as a new lease."""
    # Not through hvac's method: that one has no place for a mount in the path.
    return adapter.get(f"/v1/{quote(path)}")


def renew_lease(adapter: VaultAdapter, lease_id: str, increment: float) -> Body:
    """Ask for *increment* seconds more, from now on."""
    api: Any = SystemBackend(adapter)
    body: Body = api.renew_lease(lease_id, increment=int(increment))
    return body


def revoke_lease(adapter: VaultAdapter, lease_id: str) -> Body:
    """Revoke a lease; it is gone when the answer is here."""
    return adapter.put("/v1/sys/leases/revoke", json={"lease_id": lease_id, "sync": True})


def read_health(adapter: VaultAdapter) -> Body:
    """Read the server's state; in any state the answer is 200, and the body says which."""
    api: Any = SystemBackend(adapter)
    body: Body = api.read_health_status(
        method="GET",
        standby_ok=True,
        standby_code=_OK,
        dr_secondary_code=_OK,
        performance_standby_code=_OK,
        sealed_code=_OK,
        uninit_code=_OK,
    )
    return body

"""The requests that a client makes, as typed functions over hvac's untyped API classes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TypeGuard
from urllib.parse import quote

from hvac.api import SystemBackend
from hvac.api.auth_methods import Token
from hvac.api.secrets_engines import KvV1, KvV2

from .._shared.secrecy import Masked

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .paths import SecretPath
    from .transport import Body, VaultAdapter

__all__ = [
    "DEEPEST",
    "DatabaseCredential",
    "TokenLife",
    "credential_in",
    "is_duration",
    "kv_version_in",
    "list_folder",
    "login",
    "look_up_mount",
    "look_up_wrapping",
    "lookup_self",
    "read_database_credential",
    "read_health",
    "read_login",
    "read_secret",
    "renew_lease",
    "renew_self",
    "revoke_lease",
    "revoke_self",
    "secret_in",
    "token_life_in",
    "unwrap",
    "written_at",
]

DEEPEST = 300
#: The version of the KV engine that keeps metadata with each secret.
_WITH_METADATA = 2
#: A hundred years; JSON has numbers like 1e400, which Python reads as infinity.
_LONGEST = 100 * 365 * 86_400


@dataclass(frozen=True, slots=True)
class TokenLife:
    """A token's age and what is left of it, in seconds; infinity for one that never ends."""

    age: float
    remaining: float


@dataclass(frozen=True, slots=True)
class DatabaseCredential:
    """What the database secrets engine gave.

    Args:
        lease_id: Its lease; empty for a static role, which has none.
        user: The user's name.
        secret: The password.
        ttl: Seconds until the lease ends, or until a static role's next rotation.
        age: Seconds since it was made, or since a static role's last rotation.
        renewable: Whether the lease can be renewed.
    """

    lease_id: str
    user: str
    secret: Masked
    ttl: float
    age: float
    renewable: bool


def secret_in(body: Body, *, kv: int = 2) -> dict[str, Any] | Literal["other", "deep"]:
    """Return the fields of a secret of a KV mount, of ``DEEPEST`` levels at most.

    Returns:
        The fields; ``"other"`` for an answer that is no secret of that version, ``"deep"`` for a
        secret with more levels.
    """
    secret = body.get("data")
    if kv == _WITH_METADATA:
        # The metadata tells it from a secret of version 1 that has a field of that name.
        known = isinstance(secret, dict) and isinstance(secret.get("metadata"), dict)
        secret = secret.get("data") if known and secret is not None else None
    if not isinstance(secret, dict):
        return "other"
    return secret if _is_shallow(secret) else "deep"


def _is_shallow(value: object) -> bool:
    # Python could neither copy nor print what is nested much deeper.
    level = [value]
    for _ in range(DEEPEST):
        level = [
            child
            for one in level
            if isinstance(one, dict | list)
            for child in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return True
    return False


def kv_version_in(body: Body) -> tuple[str | None, Literal[1, 2] | None]:
    """Return the type of a mount, and its version where it is a KV engine."""
    data = body.get("data")
    kind = data.get("type") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(kind, str):
        return None, None
    options = data.get("options")
    if isinstance(options, dict) and str(options.get("version")) == "2":
        return kind, 2
    # "generic" is the name that version 1 had at first.
    return kind, 1 if kind in {"kv", "generic", "cubbyhole"} else None


def written_at(body: Body) -> float | None:
    """Return when a KV version 2 secret was written, in seconds since the epoch."""
    try:
        return datetime.fromisoformat(body["data"]["metadata"]["created_time"]).timestamp()
    except (KeyError, OSError, OverflowError, TypeError, ValueError):
        return None


def is_duration(value: object) -> TypeGuard[float]:
    """Return whether *value* is a number of seconds that a clock can be compared with."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 <= value <= _LONGEST


def token_life_in(body: Body) -> TokenLife | None:
    """Return the life of a token that was looked up."""
    data = body.get("data")
    if not isinstance(data, dict):
        return None
    made, ttl = data.get("creation_time"), data.get("ttl")
    if ttl is not None and not is_duration(ttl):
        return None
    age = max(0.0, time.time() - made) if is_duration(made) else 0.0
    # 0 is a token that never ends.
    return TokenLife(age, float(ttl) if ttl else float("inf"))


def credential_in(body: Body) -> DatabaseCredential | None:
    """Return the user and the password of a database role."""
    data = body.get("data")
    if not isinstance(data, dict):
        return None
    user, secret = data.get("username"), data.get("password")
    lease_id = body.get("lease_id") or ""
    ttl = body.get("lease_duration") if lease_id else data.get("ttl")
    if not (isinstance(user, str) and isinstance(secret, str) and is_duration(ttl)):
        return None
    if not isinstance(lease_id, str):
        return None
    # A static role tells how long its password is good from one rotation to the next.
    period = data.get("rotation_period")
    age = max(0.0, period - ttl) if is_duration(period) else 0.0
    renewable = bool(body.get("renewable"))
    return DatabaseCredential(lease_id, user, Masked(secret), float(ttl), age, renewable)


_OK = 200


def read_secret(
    adapter: VaultAdapter, place: SecretPath, version: int | None, *, kv: int = 2
) -> Body:
    """Read one version of a secret, the latest when None."""
    body: Body
    if kv == 1:
        body = KvV1(adapter).read_secret(place.path, mount_point=place.mount)
        return body
    api: Any = KvV2(adapter)
    body = api.read_secret_version(
        place.path, version=version, mount_point=place.mount, raise_on_deleted_version=True
    )
    return body


def look_up_mount(adapter: VaultAdapter, mount: str) -> Body:
    """Look up what is mounted there; a token that may read something in it may."""
    return adapter.get(f"/v1/sys/internal/ui/mounts/{quote(mount)}")


def list_folder(adapter: VaultAdapter, place: SecretPath, *, kv: int = 2) -> Body:
    """List the names in a folder."""
    api: Any = KvV1(adapter) if kv == 1 else KvV2(adapter)
    body: Body = api.list_secrets(place.path, mount_point=place.mount)
    return body


def login(adapter: VaultAdapter, mount: str, credentials: Mapping[str, Masked]) -> Body:
    """Log in by the auth method at *mount*."""
    return adapter.post(
        f"/v1/auth/{quote(mount)}/login",
        json={name: value.reveal() for name, value in credentials.items()},
    )


def read_login(adapter: VaultAdapter, mount: str) -> Body:
    """Read what can only be written; the status tells whether there is such an auth method."""
    return adapter.get(f"/v1/auth/{quote(mount)}/login")


def look_up_wrapping(adapter: VaultAdapter, wrapping: Masked) -> Body:
    """Look up what a response-wrapping token was made for, without using it."""
    return adapter.post("/v1/sys/wrapping/lookup", json={"token": wrapping.reveal()})


def unwrap(adapter: VaultAdapter) -> Body:
    """Unwrap the response-wrapping token that the request shows; that uses it up."""
    return adapter.post("/v1/sys/wrapping/unwrap")


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
    """Renew a lease for *increment* seconds from now."""
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

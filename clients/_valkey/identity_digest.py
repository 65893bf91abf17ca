"""A canonical text of an identity, and its hash for keys, which show no personal data."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from ..errors import ValkeyConfigurationError
from .arguments import checked_key

__all__ = ["DIGEST_LENGTH", "checked_identity", "identity_digest"]

_BYTES = 16
#: The number of characters in a digest.
DIGEST_LENGTH = 22


def checked_identity(user_id: object, identity: object) -> dict[str, Any]:
    """Return the named values that say who somebody is.

    Args:
        user_id: The value of that name, or None.
        identity: Further values by name, or None.

    Raises:
        ValkeyConfigurationError: There is none, one has no name, or *user_id* stands in both.
    """
    if identity is None:
        named: dict[str, Any] = {}
    elif isinstance(identity, Mapping):
        named = {n: str(v) if isinstance(v, UUID) else v for n, v in identity.items()}
    else:
        raise ValkeyConfigurationError(
            f"identity is {type(identity).__name__}: it must be a dict of named values"
        )
    if user_id is not None:
        checked_key("", user_id, "user id")
        if "user_id" in named:
            raise ValkeyConfigurationError("the user id is given twice: leave it out of identity")
        named = {"user_id": user_id, **named}
    if not named:
        raise ValkeyConfigurationError("no user is named: pass a user id, identity=, or both")
    for name in named:
        checked_key("", name, "name in identity")
    return named


def identity_digest(identity: Mapping[str, Any]) -> str:
    """Return the same 22 URL-safe characters for equal identities, and others for others.

    Args:
        identity: Named values: text, numbers, UUIDs, and lists and dicts of them.

    Raises:
        ValkeyConfigurationError: A value is of another type.
    """
    if list(identity) == ["user_id"] and isinstance(identity["user_id"], str | UUID):
        text = str(identity["user_id"])
    else:
        named = [[name, _plain(name, identity[name])] for name in sorted(identity)]
        # A line end parts it from what is a user id alone.
        text = "\n" + json.dumps(named, ensure_ascii=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:_BYTES]
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _plain(name: str, value: object) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        pairs = sorted((str(key), key) for key in value)
        return ["dict", *([key, _plain(name, value[original])] for key, original in pairs)]
    if isinstance(value, list | tuple):
        return ["list", *(_plain(name, one) for one in value)]
    raise ValkeyConfigurationError(
        f"the value of {name!r} in the identity is {type(value).__name__}, which has no fixed "
        "text: use text, numbers, UUIDs, or lists and dicts of them"
    )

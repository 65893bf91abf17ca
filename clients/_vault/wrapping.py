"""Secret ids that come response-wrapped: unwrapped once, and then kept for the process.

A wrapping token works once. That it was used already is how a theft shows.
Source: https://openbao.org/docs/concepts/response-wrapping/.
"""

from __future__ import annotations

import hashlib
import re
from functools import partial
from typing import TYPE_CHECKING

from .._shared.fork import on_fork
from .._shared.locks import OwnedLock
from .._shared.secrecy import Masked
from ..errors import (
    VaultAuthenticationError,
    VaultConnectionError,
)
from .api import look_up_wrapping, unwrap
from .errors import Operation, not_vault
from .sources import checked_text

if TYPE_CHECKING:
    from .retry import Deadline
    from .transport import Body, VaultTransport

__all__ = ["unwrapped_secret_id"]

_CHECK = "revoke it, and have a new one wrapped"


class _SecretIds:
    """The secret ids of this process, each by a digest of its wrapping token."""

    def __init__(self) -> None:
        self.lock = OwnedLock()
        self.known: dict[bytes, Masked] = {}


_secret_ids = _SecretIds()


def _renew_lock() -> None:
    # A thread of the parent may have held it at the fork.
    _secret_ids.lock = OwnedLock()


on_fork(_renew_lock)


def unwrapped_secret_id(
    transport: VaultTransport, wrapping: Masked, mount: str, deadline: Deadline
) -> Masked:
    """Return the secret id; the first call of the process unwraps it.

    Args:
        transport: Where to unwrap it.
        wrapping: The wrapping token.
        mount: The mount of the AppRole auth method that must have made it.
        deadline: When it must be over.

    Raises:
        VaultAuthenticationError: The token was used already, has expired, or wraps something
            else; ``reason`` is ``wrapping_token_used`` or ``wraps_something_else``.
        VaultError: Vault could not be asked.
    """
    digest = hashlib.sha256(wrapping.reveal().encode()).digest()
    operation = Operation(
        kind="unwrap", text="unwrap the secret id", addr=transport.options.addr, check=_CHECK
    )
    lock = _secret_ids.lock
    try:
        if not lock.acquire(timeout=deadline.remaining()):
            raise VaultConnectionError(
                f"{operation}: another thread's request did not end in time; raise timeout, or "
                "see why Vault is slow",
                reason="timeout",
            )
        known = _secret_ids.known.get(digest)
        if known is None:
            known = _unwrapped(transport, wrapping, mount, operation, deadline)
            _secret_ids.known[digest] = known
        return known
    finally:
        try:
            lock.release()
        except RuntimeError:
            pass  # it was not got


def _unwrapped(
    transport: VaultTransport,
    wrapping: Masked,
    mount: str,
    operation: Operation,
    deadline: Deadline,
) -> Masked:
    made_by = _creation_path(
        transport.call(
            operation,
            partial(look_up_wrapping, wrapping=wrapping),
            deadline=deadline,
            secrets=(wrapping,),
        )
    )
    # Whoever stole it could have wrapped something of their own in its place.
    if made_by is None or not re.fullmatch(
        rf"(?:.*/)?auth/{re.escape(mount)}/role/[^/]+/(?:custom-)?secret-id", made_by
    ):
        raise VaultAuthenticationError(
            f"{operation}: the wrapping token wraps something else, made by {made_by!r} and not "
            f"by 'auth/{mount}/role/.../secret-id'; it was left alone: see who gave it to you",
            reason="wraps_something_else",
        )
    try:
        # Not sent again: the answer may be lost, and the token used up all the same.
        secret_id = _secret_id_in(
            transport.call(
                operation,
                unwrap,
                deadline=deadline,
                token=wrapping,
                retries=0,
                secrets=(wrapping,),
            )
        )
    except VaultConnectionError as error:
        raise VaultConnectionError(
            f"{error}; the wrapping token may be used up by this: have a new one wrapped if the "
            "next try says so",
            reason=error.reason,
            status=error.status,
            retry_after=error.retry_after,
        ) from error.__cause__
    if secret_id is None:
        raise not_vault(operation, "HTTP 200 without a secret id")
    return checked_text("the wrapped secret id", secret_id)


def _creation_path(body: Body) -> str | None:
    data = body.get("data")
    path = data.get("creation_path") if isinstance(data, dict) else None
    return path if isinstance(path, str) else None


def _secret_id_in(body: Body) -> Masked | None:
    data = body.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("secret_id"), str):
        return None
    return Masked(data["secret_id"])

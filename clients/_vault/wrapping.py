"""Secret ids and tokens that come response-wrapped: unwrapped once, then kept for the process.

A wrapping token works once: one that has been used already may have been stolen.
Source: https://openbao.org/docs/concepts/response-wrapping/.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from .._shared.secrecy import Masked
from .._shared.single_flight import SingleFlight, WaitTimeoutError
from ..errors import VaultAuthenticationError, VaultConnectionError, VaultError
from .api import look_up_wrapping, unwrap
from .errors import Operation
from .sources import checked_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from .retry import Deadline
    from .transport import Body, VaultTransport

__all__ = ["unwrapped_secret_id", "unwrapped_token"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    """What a wrapping token must hold.

    Args:
        name: Its name, for messages.
        made_by: A pattern of the paths that make one.
        path: Such a path, for messages.
        find: Returns it from the answer to the unwrapping; None where it is not there.
    """

    name: str
    made_by: str
    path: str
    find: Callable[[Body], Masked | None]


_Key: TypeAlias = tuple[str, bytes]

#: What this process has unwrapped, by a digest of the wrapping token. A child of a fork has it too.
_known: dict[_Key, Masked] = {}
_unwrapping: SingleFlight[_Key, Masked] = SingleFlight(VaultError)


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
        VaultError: Vault could not be reached.
    """
    content = _Content(
        name="secret id",
        made_by=rf"auth/{re.escape(mount)}/role/[^/]+/(?:custom-)?secret-id",
        path=f"auth/{mount}/role/.../secret-id",
        find=lambda body: _text_in(body, "data", "secret_id"),
    )
    return _unwrapped(transport, wrapping, content, deadline)


def unwrapped_token(transport: VaultTransport, wrapping: Masked, deadline: Deadline) -> Masked:
    """Return the token; the first call of the process unwraps it.

    Args:
        transport: Where to unwrap it.
        wrapping: The wrapping token.
        deadline: When it must be over.

    Raises:
        VaultAuthenticationError: As for ``unwrapped_secret_id``.
        VaultError: Vault could not be reached.
    """
    return _unwrapped(transport, wrapping, _TOKEN, deadline)


_TOKEN = _Content(
    name="token",
    made_by=r"auth/(?:token/create(?:-orphan|/[^/]+)?|.+/login(?:/.+)?)",
    path="auth/token/create' or 'auth/.../login",
    find=lambda body: _text_in(body, "auth", "client_token"),
)


def _unwrapped(
    transport: VaultTransport, wrapping: Masked, content: _Content, deadline: Deadline
) -> Masked:
    key = content.path, hashlib.sha256(wrapping.reveal().encode()).digest()
    operation = Operation(
        kind="unwrap", text=f"unwrap the {content.name}", addr=transport.options.addr
    )

    def make() -> Masked:
        known = _known.get(key)
        if known is None:
            known = _known[key] = _asked(transport, wrapping, content, operation, deadline)
        return known

    try:
        return _unwrapping.run(key, make, deadline.remaining())
    except WaitTimeoutError:
        raise VaultConnectionError(
            f"{operation}: another thread's request did not end in time; raise timeout, or see "
            "why Vault is slow",
            reason="timeout",
        ) from None


def _asked(
    transport: VaultTransport,
    wrapping: Masked,
    content: _Content,
    operation: Operation,
    deadline: Deadline,
) -> Masked:
    made_by = _text_in(
        transport.call(
            operation,
            partial(look_up_wrapping, wrapping=wrapping),
            deadline=deadline,
            secrets=(wrapping,),
        ),
        "data",
        "creation_path",
    )
    # Whoever stole it could have wrapped something of their own in its place, and a secret of a
    # KV mount may have any path: the whole of it counts, which begins behind the namespace.
    if made_by is None or not re.fullmatch(content.made_by, made_by.reveal()):
        told = "something unknown" if made_by is None else repr(made_by.reveal())
        raise VaultAuthenticationError(
            f"{operation}: the wrapping token wraps something else than a {content.name}, made by "
            f"{told} and not by '{content.path}'; it was left wrapped: find out who gave it to you",
            reason="wraps_something_else",
        )
    try:
        # Not sent again: the answer may be lost, and the token used up all the same.
        found = content.find(
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
    if found is None:
        raise VaultAuthenticationError(
            f"{operation}: the wrapping token wrapped no {content.name}, although "
            f"{made_by.reveal()!r} made it; have a new one wrapped",
            reason="wraps_something_else",
        )
    return checked_text(f"the wrapped {content.name}", found)


def _text_in(body: Body, part: str, name: str) -> Masked | None:
    inside = body.get(part)
    text = inside.get(name) if isinstance(inside, dict) else None
    return Masked(text) if isinstance(text, str) else None

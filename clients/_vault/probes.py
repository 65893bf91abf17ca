"""Send a second request where the answer to a failed one tells its cause in words alone.

Vault answers a dead token and a denial by policy alike, a missing mount and a missing namespace, a
sealed server and a failing proxy: the statuses and the structure are equal, and only the words
differ. The status of another request tells them apart.
Sources: https://openbao.org/api-docs/system/internal-ui-namespaces/ and
https://openbao.org/api-docs/system/health/.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Probe", "State", "probe_for"]

#: What a probe found.
State: TypeAlias = Literal[
    "token_known", "token_unknown", "namespace_missing", "sealed", "uninitialised"
]

_REFUSED = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A request whose answer tells what state the server, the namespace or the token is in.

    Args:
        path: Where to send it, by GET.
        read: Returns the state for a status and a body; None where they do not tell.
        params: The request's query.
        as_caller: Whether it shows the token and names the namespace of the failed request.
    """

    path: str
    read: Callable[[int, dict[str, Any]], State | None]
    params: dict[str, str] = field(default_factory=dict)
    as_caller: bool = True


def probe_for(status: int, *, told: bool, namespace: bool, login: bool) -> Probe | None:
    """Return the request that tells what an answer does not; None where it tells enough.

    Args:
        status: The answer's HTTP status.
        told: Whether the answer has errors in it; a missing secret has none.
        namespace: Whether a namespace was named.
        login: Whether the request had a login's credentials or a wrapping token, and no token.
    """
    if status in _REFUSED and not login:
        return _TOKEN
    if status == HTTPStatus.NOT_FOUND and told and namespace:
        return _TOKEN
    if status == HTTPStatus.SERVICE_UNAVAILABLE and told:
        return _HEALTH
    return None


def _token_state(status: int, body: dict[str, Any]) -> State | None:
    del body
    match status:
        case HTTPStatus.OK:
            return "token_known"
        # 500 is the answer to a request without any token.
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN | HTTPStatus.INTERNAL_SERVER_ERROR:
            return "token_unknown"
        case HTTPStatus.NOT_FOUND:
            return "namespace_missing"
        case _:
            return None


def _seal_state(status: int, body: dict[str, Any]) -> State | None:
    if status != HTTPStatus.OK:
        return None
    if body.get("initialized") is False:
        return "uninitialised"
    return "sealed" if body.get("sealed") is True else None


#: Every living token may read it, whatever its policies; it uses up none of a token's uses.
_TOKEN = Probe(path="/v1/sys/internal/ui/namespaces", read=_token_state)
_HEALTH = Probe(
    path="/v1/sys/health",
    read=_seal_state,
    params=dict.fromkeys(
        ("drsecondarycode", "performancestandbycode", "sealedcode", "standbycode", "uninitcode"),
        "200",
    ),
    as_caller=False,
)

"""Turn every failure of redis-py and of the socket below it into one of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import redis.exceptions as driver

from .._shared.secrecy import redact
from ..errors import ValkeyConnectionError, ValkeyError

if TYPE_CHECKING:
    from .settings import Limits

__all__ = [
    "DRIVER_ERRORS",
    "PoolExhausted",
    "ReplyLost",
    "ServerMoved",
    "server_code",
    "valkey_error",
]


class ReplyLost(Exception):  # noqa: N818 - it names what happened, and never leaves this SDK
    """A request was sent, at least in part, and no complete reply came.

    Args:
        error: What the driver raised.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class ServerMoved(driver.ConnectionError):
    """The credential that followed a refused one came with another address."""


class PoolExhausted(driver.MaxConnectionsError):
    """Every connection stayed in use for as long as a caller may wait."""


#: All that the call path can raise by itself; anything else is the caller's own, such as what
#: a signal handler raises, and passes unchanged.
DRIVER_ERRORS: tuple[type[Exception], ...] = (
    ReplyLost,
    driver.RedisError,
    # These stand outside redis-py's tree.
    driver.RedisClusterException,
    driver.ChildDeadlockedError,
    driver.IncorrectPolicyType,
    OSError,
    UnicodeError,
)

_CONNECTION_ERRORS = (
    driver.ConnectionError,
    driver.TimeoutError,
    driver.InvalidResponse,
    driver.ClusterDownError,
    driver.ChildDeadlockedError,
    driver.AuthenticationWrongNumberOfArgsError,
    OSError,
)

#: The server's word, and what to do about it.
_MENDS = {
    "WRONGTYPE": "the key holds another type of value: delete it, or use another key",
    "OOM": "the server is out of memory: raise its maxmemory, or let it evict",
    "READONLY": "the server is a read-only replica: connect to the primary",
    "MASTERDOWN": "the replica has lost its primary: connect to the primary",
    "LOADING": "the server is still loading its data: try again in a moment",
    "BUSY": "a script blocks the server: SCRIPT KILL ends it",
    "NOAUTH": "the server asks for a password and the URL has none",
    "WRONGPASS": "check user name and password in the URL",
    "NOPERM": "the ACL user may not do this: widen its rules (ACL SETUSER)",
    "NOREPLICAS": "too few replicas are in reach for the server to accept a write",
    "MISCONF": "the server cannot save to disk and refuses writes: see its log",
    "CLUSTERDOWN": "the cluster does not serve this key's slot: see CLUSTER INFO",
    "CROSSSLOT": "give the keys one hash tag, as in 'cart:{42}' and 'user:{42}'",
    "TRYAGAIN": "the keys are being moved to another node: try again in a moment",
    "NOSCRIPT": "the server has forgotten the script",
}


def server_code(error: BaseException) -> str | None:
    """Return the first word of the server's error reply; None when *error* is no reply."""
    status = getattr(error, "status_code", None)
    if isinstance(status, str):
        return status
    if isinstance(error, driver.ResponseError):
        # redis-py leaves unknown words in the text.
        word = str(error).partition(" ")[0]
        return word if word.isupper() and word.isalpha() else "ERR"
    return None


def valkey_error(
    error: Exception,
    what: str,
    *,
    limits: Limits,
    writes: bool = False,
    secrets: tuple[str, ...] = (),
) -> ValkeyError:
    """Return our error for a driver's error, with its cause set where that shows no secret.

    Args:
        error: One of ``DRIVER_ERRORS``.
        what: What was tried, on which key and where.
        limits: The time-outs, for messages.
        writes: Whether the request could change anything.
        secrets: Values that must not show.

    Returns:
        The error to raise.
    """
    lost = isinstance(error, ReplyLost)
    cause = error.error if isinstance(error, ReplyLost) else error
    code = server_code(cause)
    maybe_applied = lost and writes and code is None
    if isinstance(cause, UnicodeError):
        # The codec's error carries the whole value, so it is not chained.
        return ValkeyError(
            f"{what} failed: the value is not UTF-8 text; for bytes make a redis-py client with "
            "decode_responses=False"
        )
    reason = redact(_reason(cause, code, limits), *secrets)
    advice = (
        "; the change may have been applied, because only its reply was lost: look before you "
        "repeat it"
        if maybe_applied
        else ""
    )
    kind = ValkeyConnectionError if isinstance(cause, _CONNECTION_ERRORS) else ValkeyError
    ours = kind(f"{what} failed: {reason}{advice}", code=code, maybe_applied=maybe_applied)
    # The server quotes an unknown command's arguments, and those are values.
    ours.__cause__ = None if _QUOTED_ARGUMENTS in str(cause) else cause
    ours.__suppress_context__ = True
    return ours


_QUOTED_ARGUMENTS = ", with args beginning with"
_SCRIPT_LINE = " script: "


def _reason(cause: Exception, code: str | None, limits: Limits) -> str:
    text = str(cause).partition(_QUOTED_ARGUMENTS)[0].partition(_SCRIPT_LINE)[0]
    text = text.strip().rstrip(".")
    if code not in {None, "ERR"} and not text.startswith(str(code)):
        text = f"{code} {text}"
    if isinstance(cause, driver.TimeoutError | TimeoutError):
        text += (
            f" (connect_timeout {limits.connect_timeout:g} s, "
            f"socket_timeout {limits.socket_timeout:g} s)"
        )
    text = text or type(cause).__name__
    mend = _MENDS.get(code or "")
    return f"{text} ({mend})" if mend else text

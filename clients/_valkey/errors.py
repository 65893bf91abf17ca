"""Turn every failure of redis-py and of the socket below it into one of ours."""

from __future__ import annotations

from ssl import SSLError
from typing import TYPE_CHECKING

import redis.exceptions as driver

from .._shared.secrecy import redact
from ..errors import ValkeyConnectionError, ValkeyError

if TYPE_CHECKING:
    from .settings import Limits

__all__ = [
    "TIMEOUTS",
    "PoolExhausted",
    "ReplyLost",
    "ServerMoved",
    "UnexpectedReply",
    "server_code",
    "valkey_error",
]


class ReplyLost(Exception):  # noqa: N818 - it names what happened, and never leaves this SDK
    """A request went out, at least in part, and no reply that can be used came back.

    Args:
        error: What was raised, or what the server said before it closed.
        sent: Whether all of it left. What the server got in part it cannot execute.
        maybe_applied: Whether a request that changes something left completely: the server may
            have executed it.
    """

    def __init__(self, error: Exception, *, sent: bool, maybe_applied: bool) -> None:
        super().__init__(str(error))
        self.error = error
        self.sent = sent
        self.maybe_applied = maybe_applied


class UnexpectedReply(Exception):  # noqa: N818 - likewise
    """The server answered something that the command does not have.

    Args:
        expected: What it has.
        reply: What came; it does not show.
    """

    def __init__(self, expected: str, reply: object) -> None:
        super().__init__(f"the server answered with {type(reply).__name__} instead of {expected}")


class ServerMoved(driver.ConnectionError):
    """The credential that followed a refused one came with another address."""


class PoolExhausted(driver.MaxConnectionsError):
    """Every connection stayed in use for as long as a caller may wait."""


#: What silence is raised as.
TIMEOUTS = (driver.TimeoutError, TimeoutError)

_CONNECTION_ERRORS = (
    driver.ConnectionError,
    driver.TimeoutError,
    driver.InvalidResponse,
    driver.ClusterDownError,
    driver.ChildDeadlockedError,
    driver.AuthenticationWrongNumberOfArgsError,
    UnexpectedReply,
    OSError,
)

#: What to do about each of the server's codes.
_ADVICE = {
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
    "MOVED": "this server is a node of a cluster: write redis+cluster:// in the URL",
    "ASK": "this server is a node of a cluster: write redis+cluster:// in the URL",
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
    error: Exception, what: str, *, limits: Limits, secrets: tuple[str, ...] = ()
) -> ValkeyError:
    """Return our error for any failure of a call, with its cause where that shows no secret.

    Args:
        error: What was raised.
        what: What was tried, on which key and where.
        limits: The time-outs, for messages.
        secrets: Values that must not show.

    Returns:
        The error to raise.
    """
    cause, maybe_applied = error, False
    if isinstance(error, ReplyLost):
        cause = error.error
        maybe_applied = error.maybe_applied
    if isinstance(cause, UnicodeError):
        # The codec's error carries the whole value, so it is not chained.
        return ValkeyError(
            f"{what} failed: the value is not UTF-8 text; for bytes see ValkeyClient.client",
            maybe_applied=maybe_applied,
        )
    code = server_code(cause)
    reason = redact(_reason(cause, code, limits), *secrets)
    advice = ""
    if maybe_applied:
        advice = (
            "; the change may have been applied, because only its reply was lost: check before "
            "you repeat it"
        )
    elif isinstance(error, ReplyLost) and not error.sent:
        advice = (
            "; the request left only in part, so that it was not executed: a value may not be "
            "larger than the server's proto-max-bulk-len"
        )
    is_lost = isinstance(error, ReplyLost) and code is None
    kind, why = ValkeyError, None
    if is_lost or isinstance(cause, _CONNECTION_ERRORS):
        kind, why = ValkeyConnectionError, _connection_reason(cause, code, is_lost=is_lost)
    ours = kind(
        f"{what} failed: {reason}{advice}", code=code, reason=why, maybe_applied=maybe_applied
    )
    # The server quotes an unknown command's arguments, and those are values.
    ours.__cause__ = None if _QUOTED_ARGUMENTS in str(cause) else cause
    ours.__suppress_context__ = True
    return ours


def _connection_reason(cause: Exception, code: str | None, *, is_lost: bool) -> str:
    """Return one of the reasons that ``ValkeyConnectionError`` lists."""
    kinds: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
        (PoolExhausted, "exhausted"),
        ((driver.AuthenticationError, driver.AuthenticationWrongNumberOfArgsError), "login"),
        ((driver.BusyLoadingError, driver.ClusterDownError), "not_ready"),
        ((UnexpectedReply, driver.InvalidResponse), "protocol"),
        (TIMEOUTS, "timeout"),
    )
    for kind, reason in kinds:
        if isinstance(cause, kind):
            return reason
    if code in {"NOAUTH", "WRONGPASS"}:
        return "login"
    if isinstance(cause, SSLError) or isinstance(cause.__context__, SSLError):
        return "tls"
    return "lost" if is_lost else "refused"


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
    if not isinstance(cause, driver.RedisError | OSError | UnexpectedReply | UnicodeError):
        # Whatever else was raised may quote a value.
        text = f"unexpected {type(cause).__name__}"
    text = text or type(cause).__name__
    advice = _ADVICE.get(code or "")
    return f"{text} ({advice})" if advice else text

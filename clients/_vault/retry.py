"""One deadline for a whole call, and the tries that fit into it.

The usual retry libraries stop after a time or a number of tries, but none of them waits as long
as the server says and gives up immediately when that would pass the deadline.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, TypeVar

from .._shared.jitter import between
from ..errors import VaultConnectionError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RETRIED_REASONS", "Deadline", "retry"]

#: What may pass by itself; "tls" where a connection was ended, and not for a bad certificate. Not
#: "sealed": that needs a person, and the caller should know immediately.
RETRIED_REASONS = frozenset(
    {"unreachable", "timeout", "tls", "standby_behind", "rate_limited", "server_error"}
)
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 2.0

_T = TypeVar("_T")
_log = logging.getLogger("clients.vault")


class Deadline:
    """The moment at which a call must be over, on the monotonic clock.

    Args:
        timeout: Seconds from now.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._ends_at = time.monotonic() + timeout

    def remaining(self) -> float:
        """Return the seconds left, 0.0 when it has passed."""
        return max(0.0, self._ends_at - time.monotonic())

    def sooner(self, timeout: float) -> Deadline:
        """Return a deadline *timeout* seconds from now, but no later than this one."""
        return Deadline(min(timeout, self.remaining()))


def retry(attempt: Callable[[Deadline], _T], *, deadline: Deadline, retries: int) -> _T:
    """Return what *attempt* returns, trying again after a failure that may pass by itself.

    Pauses double from 0.1 to 2 seconds, with jitter; a Retry-After of the server is honoured
    instead. A pause that would pass the deadline is not begun.

    Args:
        attempt: One try, given the moment until which it may wait for an answer: all but the last
            get half of the time that is left, so that a stalled one leaves time for the next.
        deadline: When all tries and pauses must be over.
        retries: Further tries after the first one.

    Raises:
        VaultError: The failure of the last try.
    """
    for number in range(retries + 1):
        try:
            last = number == retries
            return attempt(deadline if last else deadline.sooner(deadline.remaining() / 2))
        except VaultConnectionError as error:
            if error.reason not in RETRIED_REASONS:
                raise
            left = deadline.remaining()
            pause = _pause(number, error.retry_after, left)
            if number == retries or pause >= left:
                _tell_tries(error, number + 1)
                raise
            _log.debug("try %d failed (%s): next in %.2f s", number + 1, error.reason, pause)
        time.sleep(pause)
    raise AssertionError("unreachable: the last try returns or raises")  # pragma: no cover


def _pause(number: int, retry_after: float | None, left: float) -> float:
    # Jitter keeps many clients from retrying at the same moment.
    jitter = between(0.5, 1.0)
    if retry_after is None:
        return jitter * min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(number, 9))
    # The server rounds down to whole seconds: its "0" may mean 0.9.
    pause = retry_after + jitter
    return pause if pause < left else retry_after


def _tell_tries(error: VaultConnectionError, tries: int) -> None:
    if tries > 1:
        error.args = (f"{error.args[0]} (after {tries} tries)", *error.args[1:])

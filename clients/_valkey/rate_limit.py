"""A rate limit that is exact across processes: GCRA on the server's clock.

Source: https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from .._shared.validation import LARGEST, checked_count, checked_seconds
from ..errors import ValkeyConfigurationError
from .commands import script_command
from .scripts import GCRA

if TYPE_CHECKING:
    from .commands import Command

__all__ = ["RateLimit", "rate_limit_command"]

_MICROSECONDS = 1_000_000
# Beyond this, sums with the clock would no longer be exact in Lua's 53-bit numbers.
_LONGEST_BURST = 10 * 365 * 86_400 * _MICROSECONDS


class RateLimit(NamedTuple):
    """The answer to one request for admission.

    Args:
        allowed: Whether the caller may go on; what it cost is booked only then.
        remaining: How many units could be had right now.
        retry_after: Seconds until the same request would be allowed; 0.0 when it was.
        reset_after: Seconds until the full burst is there again.
    """

    allowed: bool
    remaining: int
    retry_after: float
    reset_after: float


def rate_limit_command(
    name: str, limit: int, period_seconds: float, *, burst: int | None, cost: int
) -> Command[RateLimit]:
    """Return the command that asks for admission.

    Raises:
        ValkeyConfigurationError: A number is unusable, or *cost* is more than *burst*.
    """
    refusal = ValkeyConfigurationError
    limit = checked_count("limit", limit, refusal, least=1)
    period_seconds = checked_seconds("period_seconds", period_seconds, refusal, most=LARGEST)
    burst = limit if burst is None else checked_count("burst", burst, refusal, least=1)
    cost = checked_count("cost", cost, refusal, least=1)
    if cost > burst:
        raise ValkeyConfigurationError(
            f"the cost {cost} is more than the burst {burst} of key {name!r}: it could never pass"
        )
    # Rounded up: in doubt a little slower, and never more than the limit.
    interval = math.ceil(round(period_seconds * _MICROSECONDS) / limit)
    if limit > period_seconds * _MICROSECONDS:
        raise ValkeyConfigurationError(
            f"the limit {limit} per {period_seconds} s of key {name!r} is above one per "
            "microsecond, the clock's resolution"
        )
    if interval * burst > _LONGEST_BURST:
        raise ValkeyConfigurationError(
            f"the burst {burst} of key {name!r} takes more than ten years to refill"
        )
    return script_command(GCRA, (name,), (interval, burst, cost), _parse)


def _parse(reply: list[Any]) -> RateLimit:
    allowed, remaining, wait, until_full = reply
    return RateLimit(
        allowed=allowed == 1,
        remaining=remaining,
        retry_after=wait / _MICROSECONDS,
        reset_after=until_full / _MICROSECONDS,
    )

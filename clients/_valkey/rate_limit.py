"""A rate limit that is exact across processes: GCRA on the server's clock.

Source: https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .._shared.validation import LARGEST, checked_count, checked_seconds
from ..errors import ValkeyConfigurationError
from .commands import Script, script_command
from .reply_shapes import integers

if TYPE_CHECKING:
    from .commands import Command

__all__ = ["GCRA", "RateLimit", "rate_limit_command"]

_MICROSECONDS = 1_000_000
# Beyond this, sums with the clock would no longer be exact in Lua's 53-bit numbers.
_LONGEST_BURST = 10 * 365 * 86_400 * _MICROSECONDS


#: The generic cell rate algorithm in whole microseconds. KEYS: the limiter. ARGV: interval
#: between two units, burst, cost. The key holds the theoretical arrival time.
#: Source: https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm
GCRA: Final = Script(
    "rate limit",
    """
local interval, burst, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local stored = redis.call('GET', KEYS[1])
local arrival = now
if stored then
  arrival = tonumber(stored)
  if not arrival then
    return redis.error_reply('WRONGTYPE the key holds something other than a rate limit')
  end
end
-- Never owe more than a full burst: a clock set back or a smaller burst must not lock out.
local latest = now + burst * interval
local book = arrival > latest
arrival = math.min(math.max(arrival, now), latest)
local next_arrival = arrival + cost * interval
local wait = next_arrival - latest
local allowed = 0
if wait <= 0 then
  allowed = 1
  wait = 0
  book = true
  arrival = next_arrival
end
if book then
  redis.call('SET', KEYS[1], string.format('%.0f', arrival),
             'PX', math.ceil((arrival - now) / 1000))
end
local remaining = math.floor((latest - arrival) / interval)
return {allowed, remaining, wait, arrival - now}
""",
)


class RateLimit(NamedTuple):
    """The answer to one request for admission.

    Args:
        allowed: Whether the caller may go on; what it cost is booked only then.
        remaining: How many units could be had right now.
        retry_after: Seconds until the same request would be allowed; 0.0 when it was.
        reset_after: Seconds until the full burst is there again.
        without_server: Whether Valkey could not be used, and ``on_unavailable`` is the answer.
            The numbers are guesses, and as far as is known nothing was booked: where the reply
            alone was lost it was, and a server that was frozen books what it was sent when it
            goes on.
    """

    allowed: bool
    remaining: int
    retry_after: float
    reset_after: float
    without_server: bool = False


def rate_limit_command(
    name: str, limit: int, period_seconds: float, *, burst: int | None, cost: int
) -> Command[RateLimit]:
    """Return the command of a rate limit.

    Raises:
        ValkeyConfigurationError: A number is unusable, or *cost* is more than *burst*.
    """
    refusal = ValkeyConfigurationError
    limit = checked_count("limit", limit, refusal, minimum=1)
    period_seconds = checked_seconds("period_seconds", period_seconds, refusal, maximum=LARGEST)
    burst = limit if burst is None else checked_count("burst", burst, refusal, minimum=1)
    cost = checked_count("cost", cost, refusal, minimum=1)
    if cost > burst:
        raise ValkeyConfigurationError(
            f"the cost {cost} is more than the burst {burst} of key {name!r}: it could never pass"
        )
    # Rounded up: rather a little slower than more than the limit.
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
    return script_command(GCRA, (name,), (interval, burst, cost), _answer)


def _answer(reply: Any) -> RateLimit:
    allowed, remaining, wait, until_full = integers(reply, 4)
    return RateLimit(
        allowed=allowed == 1,
        remaining=remaining,
        retry_after=wait / _MICROSECONDS,
        reset_after=until_full / _MICROSECONDS,
    )

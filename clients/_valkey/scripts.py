"""The server-side scripts: each is one atomic step, and counts with the server's clock.

Sources: https://valkey.io/topics/eval-intro/ and https://valkey.io/commands/.
"""

from __future__ import annotations

import hashlib
from typing import Final

__all__ = ["GCRA", "GET_MANY", "INCREMENT", "SET_MANY", "Script"]


class Script:
    """A Lua script.

    Args:
        name: What messages call it.
        text: The script.
    """

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text.strip()
        # The protocol's own name for a script, and no matter of security.
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


#: KEYS: the counter. ARGV: amount, expiry in seconds. A script and not MULTI, because a failed
#: INCRBY must not put an expiry on somebody else's value.
INCREMENT: Final = Script(
    "INCR with expiry",
    """
local value = redis.call('INCRBY', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2], 'NX')
if math.abs(value) > 9007199254740991 then
  -- Beyond 2^53 Lua's number is not exact, and the stored text is.
  return redis.call('GET', KEYS[1])
end
return value
""",
)

#: KEYS: the keys. A script and not MGET, which passes a key of another type off as absent.
GET_MANY: Final = Script(
    "MGET",
    """
local values = {}
for number, key in ipairs(KEYS) do
  local value = redis.pcall('GET', key)
  if type(value) == 'table' then
    return redis.error_reply(value.err .. ", in '" .. key .. "'")
  end
  values[number] = value
end
return values
""",
)

#: KEYS: the keys. ARGV: expiry in seconds, then the values.
SET_MANY: Final = Script(
    "MSET with expiry",
    """
for number, key in ipairs(KEYS) do
  redis.call('SET', key, ARGV[number + 1], 'EX', ARGV[1])
end
return #KEYS
""",
)

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

"""Which part of a key a cluster takes for its slot.

That is the text between the first opening brace and the next closing one, where there is any, and
the whole key otherwise.

Source: https://valkey.io/topics/cluster-spec/ (hash tags).
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import count

from redis.crc import key_slot

from ..errors import ValkeyConfigurationError

__all__ = ["checked_cluster_prefix", "has_hash_tag", "tag_of_slot"]

_TAGGED = re.compile(r"[^{]*\{[^}]+\}", re.DOTALL)


def has_hash_tag(key: str) -> bool:
    """Return whether a part of *key* decides its slot."""
    return _TAGGED.match(key) is not None


@lru_cache(maxsize=1024)
def tag_of_slot(slot: int) -> str:
    """Return a hash tag that lies in *slot*."""
    return next(tag for tag in map(str, count()) if key_slot(tag.encode()) == slot)


def checked_cluster_prefix(prefix: str) -> str:
    """Return *prefix*, which is to stand before every key of a client of a cluster.

    Raises:
        ValkeyConfigurationError: It has an opening brace and no hash tag: a cluster would not see
            the hash tags of the keys behind it, and a value and its lock would lie apart.
    """
    if "{" in prefix and not has_hash_tag(prefix):
        raise ValkeyConfigurationError(
            f"key_prefix {prefix!r} cannot be used with a cluster: its opening brace begins a hash "
            "tag that it does not end, so that keys which belong together would lie in different "
            "slots; leave the brace out, or name a whole tag, as in '{app}:', which puts all keys "
            "into one slot"
        )
    return prefix

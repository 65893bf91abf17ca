"""Round trips of a call, counted on the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.benchmarks._pairs import Way
    from tests.fault_proxy import FaultProxy

__all__ = ["trips_of"]

# Enough for psycopg to prepare on each of ten connections that are taken in turn.
_WARM_UP, _CALLS = 80, 20


def trips_of(
    ways: Mapping[str, Way], proxy: FaultProxy, *, calls: int = _CALLS
) -> dict[str, float]:
    """Return by contestant how many round trips one call takes, once it is warm.

    Args:
        ways: The contestants; all of them reach their server through *proxy*.
        proxy: What counts.
        calls: Over how many calls the count is averaged.
    """
    found = {}
    for name, way in ways.items():
        for _ in range(_WARM_UP):
            way()
        proxy.reset_counts()
        for _ in range(calls):
            way()
        found[name] = proxy.round_trips / calls
    return found

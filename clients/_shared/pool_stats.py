"""The numbers of a connection pool, under the names that its metrics have."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["stats_by_pool", "with_metric_names"]

#: The pool's own names, by the last part of the metric's name or the state that it counts.
_METRICS = {
    "used": "in_use",
    "max": "max_size",
    "pending_requests": "waiting",
    "timeouts": "exhausted",
}


def with_metric_names(numbers: dict[str, int]) -> dict[str, int]:
    """Return the numbers of a pool, also by the names of the ``db.client.connection.*`` metrics.

    Args:
        numbers: What the pool counts.
    """
    return numbers | {metric: numbers[name] for metric, name in _METRICS.items()}


def stats_by_pool(name: str, stats: Callable[..., dict[str, int]]) -> dict[str, dict[str, int]]:
    """Return the numbers of both pools of a client, by the names that they have in the metrics.

    Args:
        name: The name of the users' pool.
        stats: The client's ``stats``, which takes ``admin=True``.
    """
    pools = {name: stats(), f"{name} admin": stats(admin=True)}
    return {pool: numbers for pool, numbers in pools.items() if numbers}

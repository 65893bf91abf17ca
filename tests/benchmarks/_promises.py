"""What the project promises in numbers: ratios and counts, never times.

Each benchmark that measures one of them asserts it, ``make bench`` fails when one was not measured,
and the README's table of numbers has one line for each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["PROMISES", "Kind", "Promise"]

#: What is bounded: the ratio of ours to theirs, or our own figure.
Kind: TypeAlias = Literal["ratio", "count", "share"]


@dataclass(frozen=True, slots=True)
class Promise:
    """One bound.

    Args:
        label: What is compared, as the README says it.
        limit: The bound.
        kind: What is bounded.
        at_least: Whether the limit is a lower bound; an upper one otherwise.
    """

    label: str
    limit: float
    kind: Kind = "ratio"
    at_least: bool = False

    def kept_by(self, value: float) -> bool:
        """Return whether *value* is within the limit."""
        return value >= self.limit if self.at_least else value <= self.limit

    def limit_text(self) -> str:
        """Return the limit as the tables print it."""
        return f"{'≥' if self.at_least else '≤'} {self.value_text(self.limit)}"

    def value_text(self, value: float) -> str:
        """Return a measured value as the tables print it."""
        if self.kind == "count":
            return f"{value:g}"
        if self.kind == "share":
            return f"{value:.1%}"
        # Two digits that tell something, also of a thousandth.
        return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


PROMISES = {
    "trips": Promise("round trips of `execute()`", 1, "count"),
    "five trips": Promise("`execute()` / BEGIN, set, query, reset, COMMIT", 0.6),
    "bare": Promise("`execute()` / psycopg_pool without any protection", 1.9),
    "bare, 5 ms": Promise("the same over a link of 5 ms", 1.1),
    "block": Promise("`connection()` with one query / the same five trips", 1.4),
    "identity": Promise("`execute()` with three values of an identity / with one", 1.05),
    "signed": Promise("`execute()` with a signed identity / with a plain one", 1.15),
    "orm": Promise("one ORM query under an identity / a `begin` listener, 1 ms", 0.7),
    "orm trips": Promise("round trips of one ORM query under an identity", 2, "count"),
    "no provider": Promise("a call with OpenTelemetry and no provider / without it", 1.01),
    "sampling off": Promise("the same with a provider that samples nothing", 1.05),
    "bulk, many": Promise("`bulk_insert()` of 50,000 rows / `execute_many()`", 0.4),
    "bulk, copy": Promise("`bulk_insert()` of 50,000 rows / COPY without RLS", 2.0),
    "row type": Promise("1,000 rows as dataclasses / as dicts", 1.3),
    "restart": Promise("failed calls after a server's restart", 0, "count"),
    "policy": Promise("the policy of `sql/` / WHERE without a policy, 500,000 rows", 1.2),
    "stream": Promise("memory of `stream()` / fetching all 1,000,000 rows", 0.05),
    "warm": Promise("a cached secret / a read with hvac", 1 / 500),
    "miss": Promise("requests when 64 threads miss one secret", 1, "count"),
    "hit rate": Promise("hit rate, 8 threads over 40 secrets", 0.8, "share", at_least=True),
    "error rate": Promise("failed reads of them", 0.001, "share"),
    "get": Promise("Valkey `get()` / redis-py with hiredis", 0.7),
    "set": Promise("Valkey `set()` with expiry / likewise", 0.7),
    "incr": Promise("Valkey `incr()` / likewise", 0.7),
    "glide": Promise("Valkey `get()`, `set()`, `incr()` / valkey-glide-sync", 0.7),
    "glide threads": Promise("throughput of 8 threads / valkey-glide-sync", 1, at_least=True),
    "floor": Promise("Valkey `get()` / a socket and hiredis", 1.4),
    "link keeps up": Promise("GETs of 8 sockets over 1 ms / of one", 5, at_least=True),
    "link": Promise("`get()`, `set()`, `incr()` over 1 ms / redis-py, valkey-glide-sync", 1),
    "link threads": Promise("the same at 8 threads, throughput", 1, at_least=True),
    "pipeline": Promise("a pipeline of 100 / likewise", 0.6),
    "threads": Promise("throughput of 8 threads / likewise", 1.3, at_least=True),
    "import": Promise("`import clients` / importing hvac, psycopg_pool, redis", 1.05),
    "import all": Promise("`from clients import *` / likewise", 1.25),
}

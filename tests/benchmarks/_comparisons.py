"""What a whole run compares with what.

Written down apart from the benchmarks: one that loses a contestant, a link or a number of threads
on the way fails the run, as a broken promise does.
"""

from __future__ import annotations

__all__ = ["COMPARISONS"]

_WAYS_OF_A_QUERY = (
    *("connection()", "BEGIN, set_config, query, reset, COMMIT", "psycopg_pool, no RLS"),
    *("psycopg_pool, BEGIN to COMMIT in one pipeline", "SQLAlchemy 2, set_config on begin"),
    *("Django, middleware, CONN_MAX_AGE=None", "Django, middleware, pool"),
)
_POLICIES = (
    *("setting not in a sub-select", "setting in a plpgsql function", "the column cast to text"),
    *("the policy of sql/, no index", "WHERE, no policy"),
)
_READERS = ("psycopg, named cursor", "psycopg, fetchall()", "execute()")
_REDIS = ("redis-py, hiredis", "redis-py, no hiredis")
_COMMON = ("get()", "set(), expiry", "incr()")
_LIMITERS = ("limits, fixed window", "limits, moving window", "limits, sliding counter")
_CACHES = ("hvac", "hvac + cachetools, lock", "hvac + cachetools, condition")
_DRIVERS = "hvac, psycopg_pool, redis"
_LINKS = ("1 ms link", "10 ms link")
_THREADS = ("8 threads, throughput", "1 ms link, 8 threads, throughput")


def _every(*whats: str, against: tuple[str, ...]) -> set[tuple[str, str]]:
    return {(what, other) for what in whats for other in against}


#: What was measured, and what it is compared with, as the table prints them.
COMPARISONS = frozenset(
    _every(
        *(
            f"execute(), {link}, {threads}"
            for link in ("loopback", *_LINKS)
            for threads in ("1 thread", "8 threads", "32 threads")
        ),
        against=_WAYS_OF_A_QUERY,
    )
    | _every("one ORM query", "one ORM query, 1 ms link", against=(_WAYS_OF_A_QUERY[4],))
    | _every(
        *(
            f"{method}, {state}"
            for method in ("execute()", "get()")
            for state in ("present, no provider", "present, sampling off")
        ),
        against=("OpenTelemetry absent",),
    )
    | _every("execute(), three values", against=("execute(), one value",))
    | _every("execute(), a signed identity", against=("execute(), a plain identity",))
    | _every("bulk_insert(), 50,000 rows", against=("execute_many()", "COPY, a table without RLS"))
    | _every("execute() of 1,000 rows, row_type= a dataclass", against=("dict rows",))
    | _every("the policy of sql/, 500 of 500,000 rows", against=_POLICIES)
    | _every("failed calls of 150 after 5 restarts", against=("psycopg_pool",))
    | _every("failed calls of 30 after a restart", against=("psycopg_pool, check=",))
    | _every("slowest call after a restart", against=("psycopg_pool", "psycopg_pool, check="))
    | _every("stream(), 1,000,000 rows, memory", "stream(), 1,000,000 rows, time", against=_READERS)
    | _every("get_secret(), cold", "get_secret(), warm", against=_CACHES[:2])
    | _every(*(f"get_secret(), cold, {link}" for link in _LINKS), against=_CACHES[:2])
    | _every("64 threads miss one secret", "64 threads miss one secret, time", against=_CACHES)
    | _every(
        *(*_COMMON, "get_json()", "pipeline of 100"),
        *(
            f"{name}, {link}"
            for name in (*_COMMON, "get_json()", "pipeline of 100")
            for link in _LINKS
        ),
        *(f"{name}, {how}" for name in _COMMON for how in _THREADS),
        against=_REDIS,
    )
    | _every(
        *_COMMON,
        *(f"{name}, {how}" for name in _COMMON for how in (*_LINKS, *_THREADS)),
        against=("valkey-glide-sync",),
    )
    | _every("get()", against=("a socket and hiredis",))
    | _every("GET of a socket and hiredis, 1 ms link, 8 threads, throughput", against=("1 thread",))
    | _every("rate_limit()", *(f"rate_limit(), {link}" for link in _LINKS), against=_LIMITERS)
    | _every(
        *("import clients", "from clients import *", "build_clients(), 5 connections"),
        *(f"build_clients(), 5 connections, {link}" for link in _LINKS),
        "memory of idle Clients",
        against=(_DRIVERS,),
    )
)

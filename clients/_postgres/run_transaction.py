"""``run_transaction()``: run a transaction again after a serialization failure or a deadlock."""

from __future__ import annotations

import inspect
import time
from typing import TYPE_CHECKING, TypeVar

import psycopg

from .._shared.jitter import between
from ..errors import PostgresConfigurationError, PostgresError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from .guarded import GuardedConnection

__all__ = ["checked_work", "run_with_retries"]

T = TypeVar("T")

#: Serialization failure and deadlock: the server has undone all of the transaction, and asks for
#: another try. https://www.postgresql.org/docs/18/mvcc-serialization-failure-handling.html
_RETRIED = frozenset({"40001", "40P01"})
#: Seconds, doubled with each attempt; the pause is a random part of it.
_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 1.0


def checked_work(work: object) -> None:
    """Refuse what cannot be called, or would do nothing before its transaction has ended.

    Raises:
        PostgresConfigurationError: It is one of those.
    """
    if not callable(work):
        raise PostgresConfigurationError(
            f"work is {type(work).__name__}: it must be a callable that takes the connection"
        )
    if (
        inspect.iscoroutinefunction(work)
        or inspect.isgeneratorfunction(work)
        or inspect.isasyncgenfunction(work)
    ):
        raise PostgresConfigurationError(
            "work is a coroutine or generator function, which runs nothing when it is called: it "
            "must be a plain function"
        )


def run_with_retries(
    work: Callable[[GuardedConnection], T],
    block: Callable[[], AbstractContextManager[GuardedConnection]],
    attempts: int,
) -> T:
    """Run *work* in a transaction, again while the server says that it may succeed then.

    Args:
        work: What to do; it gets a live connection for each attempt.
        block: Makes the transaction of one attempt.
        attempts: How many there may be.

    Returns:
        What *work* returned, once its transaction is committed.

    Raises:
        PostgresError: The last attempt failed like those before it; it says how many there were.
        Exception: What *work* raised otherwise, after a rollback.
    """
    for number in range(1, attempts + 1):
        conn: GuardedConnection | None = None
        try:
            with block() as conn:
                return work(conn)
        except (psycopg.Error, PostgresError) as error:
            # A lost reply has no SQLSTATE of these: nobody knows whether it was committed.
            if error.sqlstate not in _RETRIED or getattr(error, "maybe_applied", False):
                raise
            # A COMMIT in the SQL of *work*: what came before it would be stored twice.
            if conn is not None and conn.context_was_lost:
                raise
            if number == attempts:
                raise PostgresError(
                    f"run_transaction() gave up after {attempts} attempts, each of them undone by "
                    f"the server: {error}",
                    sqlstate=error.sqlstate,
                ) from error
        limit = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0**number)
        time.sleep(between(0, limit))
    raise AssertionError("unreachable: the last attempt returns or raises")  # pragma: no cover

"""The parts of psycopg_pool that we lean on and that its manual does not promise.

When one of these fails after an upgrade, read clients/_postgres/pool.py.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
import time
from collections import deque
from typing import Any

import pytest
from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout, TooManyRequests
from psycopg_pool.pool import AddConnection, MaintenanceTask, WaitingClient


class Connection:
    """The least that the pool takes for a connection."""

    def __init__(self) -> None:
        self.closed = False
        self.pgconn = self
        self.transaction_status = TransactionStatus.IDLE

    @classmethod
    def connect(cls, conninfo: str, **kwargs: Any) -> Connection:
        """Make one, and note what it was asked for with."""
        one = cls()
        one.asked = (conninfo, kwargs)  # type: ignore[attr-defined]  # for the tests alone
        return one

    def close(self) -> None:
        """Note it."""
        self.closed = True


class WithoutThreads(ConnectionPool[Any]):
    """The pool as we use it: workers are not started, and tasks are kept."""

    def __init__(self, **settings: Any) -> None:
        self.tasks: list[MaintenanceTask] = []
        self.scheduled: list[tuple[MaintenanceTask, float]] = []
        settings = {"min_size": 0, "max_size": 2, "open": False, **settings}
        super().__init__(connection_class=Connection, **settings)

    def _start_workers(self) -> None:
        pass

    def run_task(self, task: MaintenanceTask) -> None:
        """Keep it, unless it only schedules another one."""
        if type(task).__name__ == "Schedule":
            task.run()
        else:
            self.tasks.append(task)

    def schedule_task(self, task: MaintenanceTask, delay: float) -> None:
        """Keep it."""
        self.scheduled.append((task, delay))


@pytest.fixture
def pool() -> Any:
    made = WithoutThreads(max_idle=7.0)
    made.open()
    yield made
    made.close()


def calls_of(method: Any) -> set[str]:
    """Return the names of the methods that *method* calls."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(method)))
    return {
        node.func.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }


def test_an_opened_pool_starts_no_thread_where_start_workers_does_not(pool: Any) -> None:
    """``_start_workers`` alone starts them; ``close`` does without."""
    assert "_start_workers" in calls_of(ConnectionPool._open)
    assert (pool._workers, pool._sched_runner) == ([], None)


def test_the_pool_schedules_its_shrinking_by_max_idle(pool: Any) -> None:
    """``schedule_task`` gets the one task that comes again, and it takes one unused connection."""
    [(task, delay)] = pool.scheduled
    assert delay == 7.0
    pool._nconns = 2
    for _ in range(2):
        pool._add_to_pool(pool._connect())
    pool._nconns_min = 2
    task.run()
    assert len(pool._pool) == 1
    assert len(pool.scheduled) == 2


def test_a_connection_is_made_of_the_class_with_the_keywords() -> None:
    """``_connect`` sets ``_pool``, ``_created_at`` and ``_expire_at``, with a jitter of 5 %."""
    pool = WithoutThreads(kwargs={"home": 1}, max_lifetime=100.0)
    pool.open()
    before = time.monotonic()
    made = pool._connect()
    assert made.asked == ("", {"home": 1})
    assert made._pool is pool
    assert before <= made._created_at <= time.monotonic()
    assert 95.0 <= made._expire_at - made._created_at <= 100.0
    pool.close()


def test_an_idle_connection_is_taken_from_the_left_and_added_on_the_right(pool: Any) -> None:
    """So whoever takes it from the right has the one that came back last."""
    first, second = pool._connect(), pool._connect()
    pool._add_to_pool(first)
    pool._add_to_pool(second)
    assert list(pool._pool) == [first, second]
    assert isinstance(pool._pool, deque)
    assert pool._get_ready_connection(None) is first


def test_to_take_an_idle_connection_changes_what_we_change_and_nothing_else(pool: Any) -> None:
    """``take_idle`` does by hand what these two do: the deque, ``_nconns_min`` and ``_pool``."""
    for _ in range(2):
        pool._add_to_pool(pool._connect())
    pool._nconns_min = 2
    before = dict(vars(pool))
    taken = pool._getconn_unchecked(1.0)
    assert (len(pool._pool), pool._nconns_min, taken._pool) == (1, 1, pool)
    changed = {name for name, value in vars(pool).items() if before[name] is not value}
    assert changed == {"_nconns_min"}


def test_to_put_a_good_connection_back_changes_what_we_change_and_nothing_else(pool: Any) -> None:
    """``put`` does by hand what ``putconn`` does while nobody waits: the deque and ``_pool``."""
    made = pool._connect()
    before = dict(vars(pool))
    pool.putconn(made)
    assert (list(pool._pool), made._pool) == ([made], None)
    assert [name for name, value in vars(pool).items() if before[name] is not value] == []
    assert made._created_at > pool._drained_at


def test_a_caller_looks_first_and_then_queues_under_the_lock(pool: Any) -> None:
    """``_getconn_unchecked`` looks, appends to ``_waiting``, and lets the pool grow, in order."""
    seen: list[Any] = []

    class Watched(deque[Any]):
        def append(self, client: Any) -> None:
            seen.append(("append", client, pool._lock._is_owned()))
            super().append(client)

    pool._waiting = Watched()
    pool._get_ready_connection = lambda timeout: seen.append(("look", timeout))
    made = pool._connect()

    def grow() -> None:
        seen.append("grow")
        pool._add_to_pool(made)

    pool._maybe_grow_pool = grow
    assert pool._getconn_unchecked(3.0) is made
    assert made._pool is pool
    [look, (append, client, locked), last] = seen
    assert (look, append, last, locked) == (("look", 3.0), "append", "grow", True)
    assert isinstance(client, WaitingClient)
    assert client.conn is made


def test_a_refusal_of_the_look_comes_out_before_the_queue(pool: Any) -> None:
    """What ``_get_ready_connection`` raises reaches the caller unchanged, and nobody waits."""

    def refuse(_: float | None) -> None:
        raise TooManyRequests

    pool._get_ready_connection = refuse
    with pytest.raises(TooManyRequests):
        pool._getconn_unchecked(1.0)
    assert not pool._waiting
    assert not issubclass(PoolTimeout, PoolClosed)
    assert not issubclass(TooManyRequests, PoolTimeout)


def test_a_waiting_client_uses_its_condition_for_wait_and_notify_alone() -> None:
    """The condition can be replaced by what has those two, and can be entered."""
    used = calls_of(WaitingClient.wait) | calls_of(WaitingClient.set) | calls_of(WaitingClient.fail)
    assert used == {"wait", "notify_all"}
    assert WaitingClient.__slots__ == ("conn", "error", "_cond")


def test_a_client_that_gave_up_is_not_handed_a_connection(pool: Any) -> None:
    """Its connection goes to the next one, or to the idle ones."""
    gone: Any = WaitingClient()
    gone.error = PoolTimeout()
    pool._waiting.append(gone)
    made = pool._connect()
    pool._add_to_pool(made)
    assert gone.conn is None
    assert list(pool._pool) == [made]


def test_an_expired_drained_or_broken_connection_does_not_come_back(pool: Any) -> None:
    """``putconn`` closes the first two and drops the third; a new one is asked for as a task."""
    for spoil in (
        lambda one: setattr(one, "_expire_at", 0.0),
        lambda _: pool.drain(),
        lambda one: setattr(one, "transaction_status", TransactionStatus.UNKNOWN),
    ):
        made = pool._connect()
        spoil(made)
        pool.putconn(made)
        assert made.closed == (made.transaction_status == TransactionStatus.IDLE)
        assert isinstance(pool.tasks.pop(), AddConnection)
    assert not pool._pool


def test_the_number_of_connections_is_kept_in_one_attribute(pool: Any) -> None:
    """``_nconns`` is what the statistics and the shrinking go by; it may be a property."""
    pool._nconns = 5
    assert pool.get_stats()["pool_size"] == 5
    assert "_nconns" in inspect.getsource(ConnectionPool._shrink_pool)


def test_a_closed_pool_tells_those_who_wait_and_closes_what_comes_back(pool: Any) -> None:
    """The waiting clients get PoolClosed."""
    client: Any = WaitingClient()
    pool._waiting.append(client)
    made = pool._connect()
    pool.close()
    assert isinstance(client.error, PoolClosed)
    pool.putconn(made)
    assert made.closed

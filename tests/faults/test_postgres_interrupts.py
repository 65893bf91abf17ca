"""An exception, or the garbage collector, between any two steps loses no place of the pool.

Signals raise where they like (Ctrl-C, a worker's soft time limit), and the collector ends blocks
that generators left open wherever memory is asked for. The tests do both at every single step.
"""

from __future__ import annotations

import gc
import linecache
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
import pytest

from clients.errors import PostgresError
from tests.postgres_faults import NewClient, all_places_can_be_used
from tests.postgres_helpers import run_in_thread
from tests.source_files import is_of_the_clients

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from clients.postgres_client import PostgresClient

ALICE, BOB = UUID(int=30, version=4), UUID(int=31, version=4)
QUERY = "SELECT current_setting('app.current_user_id') AS who"


class Interrupt(BaseException):
    """What a signal's handler raises."""


class AtStep:
    """A trace function that does something at one step of the client's own code.

    Args:
        step: Which one: a line, a call or a return; not the end of a ``with``.
        do: What.
        files: Parts of the names of the files whose steps count; None: those of the clients.
    """

    def __init__(
        self, step: int, do: Callable[[], None], files: tuple[str, ...] | None = None
    ) -> None:
        self.left = step
        #: The place of that step.
        self.where = "no step"
        self._do = do
        self._files = files

    def __call__(self, frame: FrameType, *_: object) -> AtStep | None:
        """Count one step, and say whether the steps of this frame count."""
        name = frame.f_code.co_filename
        if self._files is None:
            counts = is_of_the_clients(frame)
        else:
            counts = any(part in name for part in self._files)
        if not counts:
            return None
        if linecache.getline(name, frame.f_lineno).lstrip().startswith("with "):
            # Python itself lets nothing in between the last step in a lock and its release.
            return self
        self.left -= 1
        if self.left == 0:
            sys.settrace(None)
            self.where = f"{name}:{frame.f_lineno} {frame.f_code.co_name}"
            self._do()
        return self


def interrupt() -> None:
    raise Interrupt


def collect() -> None:
    gc.collect()


@pytest.fixture
def quick_collector() -> Iterator[None]:
    """Let the collector look at what the test makes, and at nothing else; when it is told to."""
    gc.collect()
    gc.freeze()
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


def run_with(trace: AtStep, call: Callable[[], object]) -> None:
    """Run *call* under *trace*, whatever it raises."""
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except (Interrupt, PostgresError, psycopg.Error):
        pass
    finally:
        sys.settrace(before)


def in_a_block(client: PostgresClient) -> None:
    with client.connection(ALICE) as conn:
        conn.execute(QUERY).fetchall()


def in_a_savepoint(client: PostgresClient) -> None:
    with client.connection(ALICE), client.connection(ALICE) as conn:
        conn.execute(QUERY)


def in_a_stream(client: PostgresClient) -> None:
    with client.stream(QUERY, user_id=ALICE) as rows:
        list(rows)


CALLS: dict[str, Callable[[PostgresClient], object]] = {
    "execute": lambda client: client.execute(QUERY, user_id=ALICE),
    "execute_many": lambda client: client.execute_many("SELECT %s", [(1,), (2,)], ALICE),
    "connection": in_a_block,
    "savepoint": in_a_savepoint,
    "stream": in_a_stream,
    "health_check": lambda client: client.health_check(),
}


# psycopg warns of cursors and connections that nobody came to close, in cycles of its own.
WARNS = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.mark.parametrize(
    "name",
    [
        "execute",
        "execute_many",
        "health_check",
        *(
            pytest.param(one, marks=[WARNS, pytest.mark.slow])
            for one in ("connection", "savepoint", "stream")
        ),
    ],
)
def test_an_exception_at_any_step_loses_no_place_and_no_context(
    new_client: NewClient, name: str
) -> None:
    """The only session is there for the next user's call, and no block is left to be joined."""
    client = new_client(pool_size=1, min_size=1, pool_timeout=0.5)
    step, done = 1, False
    while not done:
        # A call on a session that is ready, so that each step is the same place again.
        client.health_check()
        trace = AtStep(step, interrupt)
        run_with(trace, lambda: CALLS[name](client))
        done = trace.left > 0
        stats = client.stats()
        if stats["size"] != stats["idle"]:
            # In a cycle of psycopg's own.
            gc.collect()
            stats = client.stats()
        assert (stats["in_use"], stats["waiting"]) == (0, 0), step
        assert stats["size"] == stats["idle"], step
        assert client.execute(QUERY, user_id=BOB) == [{"who": str(BOB)}], step
        step += 5
    assert step > 100
    all_places_can_be_used(client)


def suspended(client: PostgresClient, user: UUID) -> Iterator[Any]:
    with client.connection(user) as conn:
        yield conn


def leave_to_the_collector(client: PostgresClient) -> None:
    """Open a block in another thread, and leave it in a cycle that only the collector ends."""

    def leave() -> None:
        cycle: list[Any] = [suspended(client, BOB)]
        cycle.append(cycle)
        next(cycle[0])

    run_in_thread(leave)


def collect_at_every_step(client: PostgresClient) -> int:
    steps = 0
    for call in (
        lambda: client.execute(QUERY, user_id=ALICE),
        lambda: in_a_block(client),
        client.stats,
        client._pool._places.sweep,
        client._pool.drain,
    ):
        step, done = 1, False
        while not done:
            leave_to_the_collector(client)
            trace = AtStep(step, collect)
            run_with(trace, call)
            done = trace.left > 0
            gc.collect()
            stats = client.stats()
            assert (stats["in_use"], stats["waiting"]) == (0, 0), step
            assert stats["size"] == stats["idle"], step
            step += 2
        steps += step
    return steps


@pytest.mark.slow
def test_the_collector_may_end_a_block_at_any_step(
    new_client: NewClient, quick_collector: None
) -> None:
    """Inside the pool's own methods, too, where it would wait for itself for ever."""
    client = new_client(pool_size=2, min_size=1, pool_timeout=0.5)

    assert run_in_thread(lambda: collect_at_every_step(client), timeout=60.0) > 300
    all_places_can_be_used(client)


def test_a_call_that_waits_gets_what_the_collector_gave_back(
    new_client: NewClient, quick_collector: None
) -> None:
    """A session that comes back between the look and the queue is not waited for."""
    client = new_client(pool_size=1, min_size=1, pool_timeout=0.5)

    waiting: list[int] = []

    def look_and_collect() -> None:
        waiting.append(client.stats()["waiting"])
        collect()

    def call_until_it_waits() -> int:
        step = 0
        while not waiting or not waiting[-1]:
            step += 1
            leave_to_the_collector(client)
            sys.settrace(AtStep(step, look_and_collect))
            rows = client.execute(QUERY, user_id=ALICE)
            assert rows == [{"who": str(ALICE)}]
        return step

    assert run_in_thread(call_until_it_waits, timeout=60.0) > 20


def test_a_block_that_ends_within_its_own_statement_lends_its_session_to_nobody(
    new_client: NewClient,
) -> None:
    """Its statement goes on with the connection: that is closed, and not the next borrower's."""
    client = new_client(pool_size=1, min_size=1)
    generator = suspended(client, ALICE)
    conn = next(generator)

    def end_the_block(cursor: Any) -> Callable[[Any], Any]:
        generator.close()  # type: ignore[attr-defined]  # a generator
        return tuple

    cursor = conn.cursor(row_factory=end_the_block)
    with suppress(psycopg.Error):
        cursor.execute(QUERY)
    with pytest.raises(PostgresError, match="has ended"):
        cursor.fetchall()
    assert client.stats()["retired"] == 1
    assert client.stats()["in_use"] == 0
    assert client.execute(QUERY, user_id=BOB) == [{"who": str(BOB)}]


def test_a_block_that_was_dropped_before_its_generator_ends_in_silence(
    new_client: NewClient,
) -> None:
    """The collector ends a cycle in any order; but no normal end may look like a commit."""
    client = new_client(pool_size=1, min_size=1)
    block: Any = client.connection(ALICE)
    block.__enter__()
    block._entered.__del__()
    assert client.stats()["retired"] == 1
    block.__exit__(GeneratorExit, GeneratorExit(), None)
    with pytest.raises(PostgresError, match="is not open"):
        block.__exit__(None, None, None)


def test_a_block_that_is_dropped_rolls_back_and_frees_its_place(new_client: NewClient) -> None:
    """Nobody can end it any more; its handle is dead, and the next call does not join it."""
    client = new_client(pool_size=1, min_size=1)
    threads = threading.active_count()
    block = client.connection(ALICE)
    conn = block.__enter__()
    conn.execute("CREATE TEMP TABLE left_open (a int)")
    del block

    with pytest.raises(PostgresError, match="has ended"):
        conn.execute(QUERY)
    assert client.execute(QUERY, user_id=BOB) == [{"who": str(BOB)}]
    assert client.stats()["in_use"] == 0
    assert threading.active_count() == threads


MOST_STEPS = 1000
# What runs while the pool lends a session: ours, the library's, and Python's locks.
POOL_FILES = ("clients/_postgres/pool.py", "/psycopg_pool/", "/threading.py")


class SoftLimit(Exception):  # noqa: N818 - named as task queues name theirs
    """What a worker's signal handler raises: an Exception, unlike Ctrl-C."""


def borrow(client: PostgresClient) -> None:
    client._pool.give_back(client._pool.checkout())


def borrow_after_a_drain(client: PostgresClient) -> None:
    client._pool.drain()
    borrow(client)


def borrow_after_waiting(client: PostgresClient) -> None:
    """Wait for the only session, which another thread has and gives back meanwhile."""
    taken, waiting = threading.Event(), threading.Event()

    def hold() -> None:
        session = client._pool.checkout()
        taken.set()
        waiting.wait(0.02)
        client._pool.give_back(session)

    trace = sys.gettrace()
    sys.settrace(None)
    giver = threading.Thread(target=hold, daemon=True)
    giver.start()
    assert taken.wait(10)
    sys.settrace(trace)
    try:
        borrow(client)
    finally:
        sys.settrace(None)
        waiting.set()
        giver.join(10)
        assert not giver.is_alive(), "whoever gives back hangs"


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Interrupt, SoftLimit])
@pytest.mark.parametrize("call", [borrow, borrow_after_a_drain, borrow_after_waiting])
def test_an_exception_at_any_step_of_the_library_comes_out_and_loses_no_place(
    new_client: NewClient,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[[PostgresClient], None],
    kind: type[BaseException],
) -> None:
    """Also between two lines of psycopg_pool and of Python's own locks."""
    # Python drops what is raised in a finaliser, and pytest would keep it, with all its frames.
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    client = new_client(pool_size=1, min_size=1, pool_timeout=5.0)

    def fail() -> None:
        raise kind

    step, done, came_out, steps = 1, False, 0, 0
    while not done and step < MOST_STEPS:
        trace = AtStep(step, fail, POOL_FILES)
        sys.settrace(trace)
        try:
            call(client)
        except kind:
            came_out += 1
        finally:
            sys.settrace(None)
        done = trace.left > 0
        steps += not done
        gc.collect(0)
        stats = client.stats()
        if stats["size"] != stats["idle"]:
            # The traces of earlier steps keep what their frames had in hand.
            gc.collect()
            stats = client.stats()
        assert (stats["in_use"], stats["waiting"]) == (0, 0), trace.where
        assert stats["size"] == stats["idle"], trace.where
        # Another thread gets the place without waiting for anybody.
        run_in_thread(lambda: borrow(client))
        step += 1
    assert done
    assert came_out >= 0.8 * steps > 20


@pytest.mark.slow
def test_the_collector_may_end_a_block_at_any_step_of_the_library(
    new_client: NewClient, quick_collector: None
) -> None:
    """The caller gets the place that this frees, and neither hangs nor waits for its time-out."""
    client = new_client(pool_size=1, min_size=1, pool_timeout=20.0)
    step, done = 0, False
    while not done and step < MOST_STEPS:
        step += 1
        trace, left = AtStep(step, collect, POOL_FILES), threading.Event()

        def borrow_traced(trace: AtStep = trace, left: threading.Event = left) -> None:
            assert left.wait(10)
            sys.settrace(trace)
            try:
                session = client._pool.checkout()
            finally:
                sys.settrace(None)
            client._pool.give_back(session)

        worker = threading.Thread(target=borrow_traced, daemon=True)
        worker.start()
        leave_to_the_collector(client)
        left.set()
        worker.join(5)
        done = trace.left > 0
        # Behind the last step the block is still there, and the caller waits for it.
        assert done or not worker.is_alive(), trace.where
        gc.collect()
        worker.join(10)
        assert not worker.is_alive(), trace.where
    assert done
    assert step > 20

"""A user's scope ends, whatever ends it, and a generator's scope is its own code's alone."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

import clients.identity
from clients.errors import RlsContextError
from clients.identity import (
    clear_current_user_id,
    current_identity,
    get_current_user_id,
    set_current_user_id,
    user_context,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
    from types import FrameType

ADA, BOB = UUID(int=1), UUID(int=2)


def who() -> object:
    """Return whose code the caller is: a user, or None."""
    return current_identity().get("user_id")


def in_a_thread(call: Callable[[], Any]) -> None:
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


@pytest.fixture(autouse=True)
def _nobody() -> Iterator[None]:
    assert who() is None, "a test has left somebody behind"
    yield
    clear_current_user_id()


# -- generators --


def rows_of(user: UUID, seen: list[object]) -> Iterator[int]:
    with user_context(user):
        for n in range(3):
            seen.append(who())
            yield n


def entered_by_a_helper(user: UUID, seen: list[object]) -> Iterator[int]:
    with as_user(user):
        for n in range(3):
            seen.append(who())
            yield n


def entered_by_a_class(user: UUID, seen: list[object]) -> Iterator[int]:
    with AsUser(user):
        for n in range(3):
            seen.append(who())
            yield n


def entered_on_a_stack(user: UUID, seen: list[object]) -> Iterator[int]:
    with ExitStack() as stack:
        stack.enter_context(user_context(user))
        stack.enter_context(as_user(user))
        for n in range(3):
            seen.append(who())
            yield n


def in_another_generator(user: UUID, seen: list[object]) -> Iterator[int]:
    yield from rows_of(user, seen)


def nested_in_itself(user: UUID, seen: list[object]) -> Iterator[int]:
    with user_context(UUID(int=9)), user_context(user):
        yield from rows_of(user, seen)


def set_in_a_scope(user: UUID, seen: list[object]) -> Iterator[int]:
    with user_context(UUID(int=9)):
        set_current_user_id(user)
        for n in range(3):
            seen.append(who())
            yield n


@contextmanager
def as_user(user: UUID) -> Iterator[None]:
    with user_context(user):
        yield


class AsUser:
    """A context manager of an application's own."""

    def __init__(self, user: UUID) -> None:
        self._context = user_context(user)

    def __enter__(self) -> None:
        self._context.__enter__()

    def __exit__(self, *exc_info: object) -> None:
        self._context.__exit__(None, None, None)


GENERATORS = [
    rows_of,
    entered_by_a_helper,
    entered_by_a_class,
    entered_on_a_stack,
    in_another_generator,
    nested_in_itself,
    set_in_a_scope,
]
every_generator = pytest.mark.parametrize("make", GENERATORS)


@every_generator
@pytest.mark.parametrize("consumer", [None, BOB])
def test_a_generators_user_is_not_its_consumers(make: Any, consumer: UUID | None) -> None:
    """Its own code is Ada from the first row to the last, its consumer never."""
    seen: list[object] = []
    with ExitStack() as stack:
        if consumer:
            stack.enter_context(user_context(consumer))
        for _ in make(ADA, seen):
            assert who() == consumer
        assert who() == consumer

    assert seen == [ADA] * 3
    assert who() is None


@every_generator
def test_a_generator_left_early_leaves_nobody_behind(make: Any) -> None:
    """Dropped, closed by another thread, or closed after its consumer's own scope."""
    seen: list[object] = []
    with user_context(BOB):
        for _ in make(ADA, seen):
            break
        assert who() == BOB

        other = make(ADA, seen)
        next(other)
        in_a_thread(other.close)
        assert who() == BOB

        late = make(ADA, seen)
        next(late)
    assert who() is None
    next(late)
    assert (who(), seen[-1]) == (None, ADA)
    late.close()
    assert who() is None


@every_generator
def test_a_generator_is_itself_in_whatever_context_it_is_resumed(make: Any) -> None:
    """A web framework runs each step in a thread, with a new copy of the request's context."""
    seen: list[object] = []
    rows = make(ADA, seen)

    def step() -> object:
        return next(rows, None)

    with ThreadPoolExecutor(2) as pool, user_context(BOB):
        steps = [pool.submit(copy_context().run, step).result() for _ in range(4)]
        assert pool.submit(copy_context().run, who).result() == BOB
        assert who() == BOB

    assert steps == [0, 1, 2, None]
    assert seen == [ADA] * 3


def test_generators_that_take_turns_keep_a_user_each() -> None:
    """Ended in whatever order, each is itself, and their consumer is nobody."""
    seen: dict[UUID, list[object]] = {UUID(int=n): [] for n in range(1, 5)}
    generators = [rows_of(user, log) for user, log in seen.items()]
    for generator in generators:
        next(generator)
    for generator in (generators[1], generators[3], generators[0], generators[2]):
        assert who() is None
        next(generator)
        generator.close()  # type: ignore[attr-defined]  # a generator
    assert who() is None
    assert all(log == [user] * 2 for user, log in seen.items())


def test_a_consumers_scope_is_not_undone_by_its_generator() -> None:
    """A scope that the consumer opens between two rows holds until the consumer ends it."""
    rows = rows_of(ADA, [])
    next(rows)
    with user_context(BOB):
        list(rows)
        assert who() == BOB
        set_current_user_id(ADA)
        assert who() == ADA
    assert who() is None


def test_what_a_consumer_sets_stays_beside_a_suspended_generator() -> None:
    """Neither takes the other's user."""
    seen: list[object] = []
    rows = rows_of(ADA, seen)
    next(rows)
    set_current_user_id(BOB)
    next(rows)
    assert (who(), seen) == (BOB, [ADA] * 2)
    clear_current_user_id()
    next(rows)
    assert (who(), seen) == (None, [ADA] * 3)


def test_a_generators_threads_are_its_own_while_it_waits_for_them() -> None:
    """The consumer's threads are never Ada's, and a consumer with a user makes both refused."""

    def fetching() -> Iterator[object]:
        with user_context(ADA):
            yield pool.submit(copy_context().run, who).result()
            yield pool.submit(copy_context().run, who).result()

    with ThreadPoolExecutor(1) as pool:
        for mine in fetching():
            assert mine == ADA
            assert pool.submit(copy_context().run, who).result() is None
        with user_context(BOB):
            for mine in fetching():
                assert mine is None
                assert pool.submit(copy_context().run, who).result() is None
            assert pool.submit(copy_context().run, who).result() == BOB
        with user_context(ADA):
            for mine in fetching():
                assert mine == pool.submit(copy_context().run, who).result() == ADA


# -- async generators --


async def rows_later(user: UUID, seen: list[object]) -> AsyncIterator[int]:
    async def child() -> object:
        await asyncio.sleep(0)
        return who()

    with user_context(user):
        seen.append(who())
        yield 0
        seen.append(await asyncio.to_thread(who))
        yield 1
        seen.extend(await asyncio.gather(child(), child()))
        await asyncio.sleep(0)
        seen.append(who())
        yield 2


def test_an_async_generators_user_is_not_its_consumers() -> None:
    """Its code, its tasks and threads are Ada; its consumer, and theirs, never."""

    async def consume() -> list[object]:
        seen: list[object] = []
        async for _ in rows_later(ADA, seen):
            assert who() is None
            assert await asyncio.to_thread(who) is None
            await asyncio.sleep(0)
        return seen

    assert asyncio.run(consume()) == [ADA] * 5


def test_a_consumer_with_a_user_keeps_it_beside_an_async_generator() -> None:
    """What cannot be told apart is refused: a thread of one of two users."""

    async def consume() -> set[object]:
        seen: list[object] = []
        with user_context(BOB):
            async for _ in rows_later(ADA, seen):
                assert who() == BOB
                assert await asyncio.to_thread(who) is None
            assert await asyncio.to_thread(who) == BOB
        return set(seen)

    assert asyncio.run(consume()) == {ADA, None}


def test_an_async_generator_left_early_leaves_nobody_behind() -> None:
    """The event loop closes it in a task of its own."""

    async def consume() -> None:
        with user_context(BOB):
            async for _ in rows_later(ADA, []):
                break
            assert who() == BOB
            gc.collect()
            await asyncio.sleep(0.01)
            assert who() == BOB
        assert who() is None

    asyncio.run(consume())


# -- context managers and fixtures: the code after the yield is the user's --


def test_a_contextmanager_helper_holds_for_the_with_body() -> None:
    """As plain user_context() does; helpers of helpers, and on a stack, too."""

    @contextmanager
    def outer(user: UUID) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(as_user(user))
            yield

    with user_context(BOB):
        with as_user(ADA):
            assert who() == ADA
            assert list(rows_of(BOB, [])) == [0, 1, 2]
            assert who() == ADA
        assert who() == BOB
        with outer(ADA):
            assert who() == ADA
        assert who() == BOB


def test_an_asynccontextmanager_helper_holds_for_the_with_body() -> None:
    """For threads and tasks that the body starts, too."""

    @asynccontextmanager
    async def later(user: UUID) -> AsyncIterator[None]:
        with user_context(user):
            yield

    async def run() -> None:
        async with later(ADA):
            assert who() == ADA
            assert await asyncio.to_thread(who) == ADA
        assert who() is None

    asyncio.run(run())


@pytest.fixture
def ada() -> Iterator[UUID]:
    with user_context(ADA) as user:
        yield user


@pytest.fixture
def ada_of_a_helper() -> Iterator[None]:
    with as_user(ADA):
        yield


def test_a_fixtures_user_is_the_tests(ada: UUID) -> None:
    """A fixture is a generator that pytest resumes after the test."""
    assert who() == ada == ADA


@pytest.mark.usefixtures("ada_of_a_helper")
def test_a_fixture_may_use_a_helper() -> None:
    """The user reaches the test through both."""
    assert who() == ADA


def test_it_decorates_a_function() -> None:
    """Each call is a scope of its own."""

    @user_context(ADA)
    def call() -> object:
        return who()

    assert [call(), call()] == [ADA, ADA]
    assert who() is None


def test_it_decorates_functions_whose_code_runs_later() -> None:
    """A coroutine and both kinds of generators are that user while they run, and nobody else is."""

    @user_context(ADA)
    async def coroutine(word: str) -> tuple[str, object]:
        await asyncio.sleep(0)
        return word, who()

    @user_context(ADA)
    def generator() -> Iterator[object]:
        yield who()
        yield who()

    @user_context(ADA)
    async def async_generator() -> AsyncIterator[object]:
        yield who()
        await asyncio.sleep(0)
        yield who()

    async def consume() -> list[object]:
        return [(one, who()) async for one in async_generator()]

    assert asyncio.run(coroutine("x")) == ("x", ADA)
    assert [(one, who()) for one in generator()] == [(ADA, None)] * 2
    assert asyncio.run(consume()) == [(ADA, None)] * 2
    with user_context(BOB):
        assert asyncio.run(coroutine("x")) == ("x", ADA)
        assert [(one, who()) for one in generator()] == [(ADA, BOB)] * 2
        assert asyncio.run(consume()) == [(ADA, BOB)] * 2
        assert who() == BOB


def test_a_decorated_generator_is_sent_to_thrown_into_and_closed() -> None:
    """What its consumer does to it reaches the function, and what it raises comes out."""
    seen: list[object] = []

    @user_context(ADA)
    def generator() -> Generator[object, object, None]:
        try:
            while True:
                try:
                    seen.append((who(), (yield "a step")))
                except KeyError:
                    seen.append((who(), "thrown"))
        finally:
            seen.append((who(), "closed"))

    @user_context(ADA)
    async def async_generator() -> AsyncGenerator[object, object]:
        try:
            while True:
                try:
                    seen.append((who(), (yield "a step")))
                except KeyError:
                    seen.append((who(), "thrown"))
        finally:
            await asyncio.sleep(0)
            seen.append((who(), "closed"))

    async def consume() -> None:
        steps = async_generator()
        assert [await anext(steps), await steps.asend(1)] == ["a step"] * 2
        assert await steps.athrow(KeyError()) == "a step"
        with pytest.raises(ValueError, match="mine"):
            await steps.athrow(ValueError("mine"))
        others = async_generator()
        await anext(others)
        await others.aclose()

    steps = generator()
    assert [next(steps), steps.send(1), steps.throw(KeyError())] == ["a step"] * 3
    steps.close()
    assert seen == [(ADA, 1), (ADA, "thrown"), (ADA, "closed")]
    seen.clear()
    asyncio.run(consume())
    assert seen == [(ADA, 1), (ADA, "thrown"), (ADA, "closed"), (ADA, "closed")]


def test_a_decorated_generator_may_be_a_context_manager() -> None:
    """Its body is that user then, as with the block written out."""

    @contextmanager
    @user_context(ADA)
    def helper() -> Iterator[object]:
        yield who()

    @asynccontextmanager
    @user_context(ADA)
    async def async_helper() -> AsyncIterator[object]:
        yield who()

    async def use() -> list[object]:
        async with async_helper() as inside:
            return [inside, who()]

    with helper() as inside:
        assert [inside, who()] == [ADA] * 2
    assert asyncio.run(use()) == [ADA] * 2
    assert who() is None


# -- scopes that end --


def test_a_copied_context_is_nobody_when_the_block_has_ended() -> None:
    """A thread or task that outlives the block is not Ada's any more, nor another's."""
    with user_context(BOB):
        with user_context(ADA):
            copied = copy_context()
            set_current_user_id(ADA)
            changed = copy_context()
            assert copied.run(who) == changed.run(who) == ADA
        assert copied.run(who) is None
        assert changed.run(who) is None
        assert who() == BOB
    with pytest.raises(RlsContextError, match="no current user"):
        copied.run(get_current_user_id)


def test_a_task_is_nobody_when_the_block_has_ended() -> None:
    """It sees Ada while the block is open; what it sets itself, it keeps."""

    async def run() -> list[object]:
        ended = asyncio.Event()

        async def task(own: UUID | None) -> list[object]:
            if own:
                set_current_user_id(own)
            first = who()
            await ended.wait()
            return [first, who()]

        with user_context(ADA):
            tasks = [asyncio.create_task(task(None)), asyncio.create_task(task(BOB))]
            await asyncio.sleep(0)
            assert who() == ADA
        ended.set()
        return [await one for one in tasks]

    assert asyncio.run(run()) == [[ADA, None], [BOB, BOB]]


def test_scopes_may_end_in_any_order() -> None:
    """Each end removes its own user, and the last one leaves nobody."""
    users = [UUID(int=n) for n in range(1, 5)]
    for order in ((0, 1, 2, 3), (3, 1, 0, 2), (1, 3, 2, 0), (2, 3, 0, 1)):
        contexts = [user_context(user) for user in users]
        for context in contexts:
            context.__enter__()
        left = list(users)
        for n in order:
            contexts[n].__exit__(None, None, None)
            left.remove(users[n])
            assert who() == (left[-1] if left else None)


def test_a_scope_may_end_in_another_thread_or_context() -> None:
    """No ValueError of a context variable comes out, and the former user is back."""
    with user_context(BOB):
        for elsewhere in (in_a_thread, copy_context().run):
            context = user_context(ADA)
            context.__enter__()
            assert who() == ADA
            elsewhere(lambda context=context: context.__exit__(None, None, None))  # type: ignore[misc]  # mypy cannot infer it
            assert who() == BOB
            context.__exit__(None, None, None)
            assert who() == BOB


def test_a_scope_may_begin_in_another_thread() -> None:
    """Its end here changes nothing here."""
    context = user_context(ADA)
    in_a_thread(context.__enter__)
    with user_context(BOB):
        context.__exit__(None, None, None)
        assert who() == BOB


def test_a_dropped_scope_has_ended() -> None:
    """Nobody can end it any more."""
    user_context(ADA).__enter__()
    assert who() is None


def test_a_scope_is_entered_once() -> None:
    """A second entry is refused, and changes nothing."""
    context = user_context(ADA)
    with context, pytest.raises(RlsContextError, match="entered before"):
        context.__enter__()
    with pytest.raises(RlsContextError, match="entered before"), context:
        pass
    assert who() is None


def test_one_thread_keeps_no_trace_of_ended_scopes() -> None:
    """A thousand scopes leave no object behind, in or out of order."""

    def some() -> None:
        for _ in range(1000):
            with user_context(ADA):
                set_current_user_id(BOB)
            list(rows_of(ADA, []))
            first, second = user_context(ADA), user_context(BOB)
            first.__enter__()
            second.__enter__()
            first.__exit__(None, None, None)
            second.__exit__(None, None, None)

    some()
    gc.collect()
    before = len(gc.get_objects())
    some()
    assert who() is None
    gc.collect()
    assert len(gc.get_objects()) - before < 100


# -- threads that inherit a context, as free-threaded Python 3.14 has them --


class InheritingThread(threading.Thread):
    """What a thread is there: it begins with a copy of its starter's context."""

    def start(self) -> None:
        """Start with a copy of the caller's context."""
        self._context = copy_context()
        super().start()

    def run(self) -> None:
        """Run in that copy."""
        self._context.run(super().run)


@pytest.fixture
def _threads_inherit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients.identity, "_THREADS_INHERIT", True)
    monkeypatch.setattr(threading, "Thread", InheritingThread)


@pytest.mark.usefixtures("_threads_inherit")
def test_a_thread_that_inherits_its_starters_context_is_nobody() -> None:
    """A pool's thread would be whoever happened to have it started, for everybody's work."""

    def own_user() -> list[object]:
        with user_context(BOB):
            inside = who()
        set_current_user_id(BOB)
        return [inside, who()]

    with ThreadPoolExecutor(1) as pool:
        with user_context(ADA):
            assert pool.submit(who).result() is None
            assert pool.submit(copy_context().run, who).result() == ADA
            copied = copy_context()
            with user_context(BOB):
                assert pool.submit(who).result() is None
                assert pool.submit(copied.run, who).result() == ADA
                assert pool.submit(copy_context().run, who).result() == BOB
            assert who() == ADA
        assert pool.submit(own_user).result() == [BOB, BOB]
    set_current_user_id(ADA)
    seen: list[object] = []
    in_a_thread(lambda: seen.append(who()))
    in_a_thread(lambda: seen.extend(own_user()))
    assert seen == [None, BOB, BOB]


@pytest.mark.usefixtures("_threads_inherit")
def test_to_thread_is_ada_where_threads_inherit_contexts() -> None:
    """Its first call starts the thread that it runs in."""

    async def run() -> list[object]:
        with user_context(ADA):
            return [await asyncio.to_thread(who) for _ in range(2)]

    assert asyncio.run(run()) == [ADA, ADA]


# -- interrupts --


class Interrupt(BaseException):
    """What a signal's handler raises."""


class AtStep:
    """A trace function that raises at one line, call or return of ``clients.identity``."""

    def __init__(self, step: int) -> None:
        self.left = step

    def __call__(self, frame: FrameType, *_: object) -> AtStep | None:
        """Count one step, and say whether the steps of this frame count."""
        if not frame.f_code.co_filename.endswith("clients/identity.py"):
            return None
        self.left -= 1
        if self.left == 0:
            sys.settrace(None)
            raise Interrupt
        return self


def in_a_block() -> None:
    with user_context(ADA):
        pass


def in_a_changed_block() -> None:
    with user_context(ADA):
        set_current_user_id(ADA)


def in_a_generator() -> None:
    for _ in rows_of(ADA, []):
        pass


def in_a_helper() -> None:
    with as_user(ADA):
        pass


@pytest.mark.parametrize("call", [in_a_block, in_a_changed_block, in_a_generator, in_a_helper])
@pytest.mark.parametrize("before", [None, BOB])
def test_an_interrupt_at_any_step_leaves_no_user_set(
    call: Callable[[], None], before: UUID | None
) -> None:
    """While its traceback lives, too; the one before is back, or, rarely, nobody."""
    tracer = sys.gettrace()
    restored = set()
    with ExitStack() as stack:
        if before:
            stack.enter_context(user_context(before))
        for step in range(1, 1000):
            trace = AtStep(step)
            sys.settrace(trace)
            try:
                call()
            except Interrupt:  # whose traceback holds the frames that it came through
                restored.add(who())
            finally:
                sys.settrace(tracer)
            if trace.left > 0:
                break
    assert 10 < step < 999
    assert before in restored
    assert restored <= {before, None}
    assert who() is None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_in_a_tight_loop_leaves_no_user_set() -> None:
    """A soft time limit comes where it likes."""

    def raise_interrupt(*_: object) -> None:
        raise Interrupt

    former = signal.signal(signal.SIGALRM, raise_interrupt)
    try:
        for n in range(300):
            with suppress(Interrupt):
                signal.setitimer(signal.ITIMER_REAL, 0.0002 + n * 1e-6)
                # Python passes over an exception in a finalizer: then no other comes.
                end = time.monotonic() + 0.05
                while time.monotonic() < end:
                    with user_context(ADA):
                        pass
            assert who() is None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)

"""One call for all threads that want the same value: counts, failures, interrupts, forks."""

from __future__ import annotations

import os
import pickle
import sys
import threading
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from clients._shared import single_flight
from clients._shared.single_flight import (
    RaisedInOtherThread,
    ReentrantCallError,
    SingleFlight,
    WaitTimeoutError,
    fresh_copy,
)
from clients.errors import ClientError, PostgresError, VaultConnectionError
from tests.lock_interrupts import interrupt_often

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

THREADS = 8


class Gate:
    """A function that counts its calls and ends when it is let."""

    def __init__(self, outcome: Callable[[], Any] = lambda: "value") -> None:
        self.started = threading.Event()
        self.open = threading.Event()
        self.calls = 0
        self._outcome = outcome

    def __call__(self) -> Any:
        """Wait, and return or raise the outcome."""
        self.calls += 1
        self.started.set()
        assert self.open.wait(30)
        return self._outcome()


def run_together(flight: SingleFlight[str, Any], gate: Gate, threads: int = THREADS) -> list[Any]:
    """Return what each of the threads got, of which one runs *gate* and all others wait."""

    def call() -> Any:
        try:
            return flight.run("key", gate, wait=30)
        except Exception as error:  # noqa: BLE001 - the test looks at it
            return error

    with ThreadPoolExecutor(threads) as pool:
        first = pool.submit(call)
        assert gate.started.wait(30)
        others = [pool.submit(call) for _ in range(threads - 1)]
        wait_until_waiting(threads - 1)
        gate.open.set()
        return [one.result(30) for one in (first, *others)]


def wait_until_waiting(count: int) -> None:
    """Return once *count* threads are in the function that waits for another thread's call."""
    pause = threading.Event()
    for _ in range(3000):
        frames = sys._current_frames().values()
        if sum(frame.f_code is single_flight._wait_for.__code__ for frame in frames) >= count:
            return
        pause.wait(0.01)
    raise AssertionError("the threads never came to wait")


def test_one_call_serves_all_threads_that_ask_meanwhile() -> None:
    """The function runs once, and each thread gets its value."""
    gate = Gate(object)

    values = run_together(SingleFlight(), gate)

    assert gate.calls == 1
    assert len(set(map(id, values))) == 1


def test_nothing_is_kept() -> None:
    """A call after the end of another one runs the function again."""
    flight: SingleFlight[str, int] = SingleFlight()
    values = iter(range(3))

    assert [flight.run("key", lambda: next(values)) for _ in range(3)] == [0, 1, 2]


def test_other_keys_do_not_wait() -> None:
    """A call for another key goes on while one is under way."""
    flight: SingleFlight[str, Any] = SingleFlight()
    gate = Gate()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(flight.run, "key", gate)
        assert gate.started.wait(30)
        assert flight.run("other", lambda: "at once", wait=0) == "at once"
        gate.open.set()
        assert first.result(30) == "value"


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=12))
def test_each_key_is_made_once_for_any_mix_of_threads(keys: list[str]) -> None:
    """Threads that start together for some keys make each of them once, and get their own."""
    flight: SingleFlight[str, str] = SingleFlight()
    made: Counter[str] = Counter()
    all_wait = threading.Event()

    def call(key: str) -> str:
        def make() -> str:
            made[key] += 1
            assert all_wait.wait(30)
            return key

        return flight.run(key, make, wait=30)

    with ThreadPoolExecutor(len(keys)) as pool:
        futures = [pool.submit(call, key) for key in keys]
        wait_until_waiting(len(keys) - len(set(keys)))
        all_wait.set()
        values = [one.result(30) for one in futures]

    assert values == keys
    assert made == Counter(set(keys))


def fail_with_a_cause() -> None:
    leaders_own = "the leader's own variable"  # noqa: F841 - what no other thread may show
    cause = psycopg.OperationalError("connection refused")
    raise PostgresError("cannot connect", reason="refused", sqlstate="08006") from cause


def test_each_waiting_thread_raises_its_own_copy() -> None:
    """Class, text and attributes are the same; object, frames and cause are each thread's own."""
    errors = run_together(SingleFlight(), Gate(fail_with_a_cause))

    assert len(set(map(id, errors))) == THREADS
    for one in errors:
        assert type(one) is PostgresError
        assert (str(one), one.reason, one.sqlstate) == ("cannot connect", "refused", "08006")
    for one in errors[1:]:
        assert type(one.__cause__) is RaisedInOtherThread
        assert "connection refused" in str(one.__cause__)
        assert one.__cause__.__traceback__ is None
        assert one.__cause__ not in {other.__cause__ for other in errors if other is not one}


def frames_of(error: BaseException) -> Iterator[FrameType]:
    """Yield the frames of an exception and of all that it leads to."""
    one: BaseException | None = error
    while one is not None:
        for frame, _ in traceback.walk_tb(one.__traceback__):
            yield frame
        one = one.__cause__ or one.__context__


def test_a_copy_leads_to_no_frame_of_the_thread_that_failed() -> None:
    """An error report with local variables shows those of its own thread alone."""
    first, *others = run_together(SingleFlight(), Gate(fail_with_a_cause))

    assert fail_with_a_cause.__code__ in {frame.f_code for frame in frames_of(first)}
    for one in others:
        assert fail_with_a_cause.__code__ not in {frame.f_code for frame in frames_of(one)}
        assert "leader's own" not in "".join(
            traceback.TracebackException.from_exception(one, capture_locals=True).format()
        )


def test_what_the_failing_thread_was_handling_is_not_told_to_others() -> None:
    """The context of an error is its thread's own; only its stated causes are given as text."""

    def fail() -> None:
        try:
            os.environ["SOMEBODYS PRIVATE KEY"]
        except KeyError:
            raise ClientError("failed")  # noqa: B904 - the implicit context is the point

    _, *others = run_together(SingleFlight(), Gate(fail))

    for one in others:
        assert "PRIVATE" not in "".join(traceback.format_exception(one))


class PairError(Exception):
    """An application's own, which takes other arguments than it keeps."""

    def __init__(self, code: int, connection: object) -> None:
        super().__init__(f"code {code}")
        self.code = code
        self.connection = connection


def of_a_response() -> Exception:
    response = requests.Response()
    response.headers["X-Vault-Token"] = "s.secret"
    return requests.ConnectionError("down", response=response)


FOREIGN: dict[str, Callable[[], Exception]] = {
    "plain": lambda: ValueError("bad", 7, ["x", {"y": (UUID(int=1),)}]),
    "of the system": lambda: FileNotFoundError(2, "no such file", "name"),
    "a codec's": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
    "of a driver": lambda: psycopg.errors.UniqueViolation("twice"),
    "other arguments": lambda: PairError(7, object()),
    "with an object": of_a_response,
    "a group": lambda: ExceptionGroup("several", [ValueError("one"), PairError(2, object())]),
    "ours": lambda: VaultConnectionError("down", reason="timeout", retry_after=1.5),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_copy_has_the_class_and_text_and_only_plain_data(name: str) -> None:
    """Whatever an application raises, others can catch it likewise, and reach no live object."""
    error = FOREIGN[name]()
    with pytest.raises(type(error)):
        raise error  # so that it has a traceback

    copied = fresh_copy(error)

    assert copied is not error
    assert type(copied) is type(error)
    assert str(copied) == str(error)
    assert (copied.__traceback__, copied.__cause__, copied.__context__) == (None, None, None)
    pickle.dumps([copied.args, vars(copied)])
    assert "s.secret" not in repr(vars(copied).get("response"))
    if isinstance(copied, PairError):
        assert (copied.code, copied.connection) == (7, None)


class UnmakeableError(PostgresError):
    """An application's own, which only its module can make."""

    def __new__(cls, *_: object, **__: object) -> Any:
        """Refuse what others ask for."""
        if sys._getframe(1).f_globals["__name__"] != __name__:
            raise TypeError("no second one")
        return super().__new__(cls)


def test_an_exception_that_cannot_be_made_again_becomes_one_of_its_base() -> None:
    """Whoever catches the base class catches it, and reads the class's name in the text."""
    copied = fresh_copy(UnmakeableError("the message"))

    assert type(copied) is PostgresError
    assert str(copied) == "UnmakeableError: the message"


@pytest.mark.parametrize("failure", [KeyboardInterrupt, SystemExit, ValueError, MemoryError])
def test_a_failure_that_is_no_answer_makes_a_waiting_thread_try(
    failure: type[BaseException],
) -> None:
    """An interrupt is its thread's own: one of those who wait runs the function instead."""
    flight: SingleFlight[str, str] = SingleFlight()
    gate = Gate()

    def interrupted() -> str:
        gate()
        raise failure

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(flight.run, "key", interrupted)
        assert gate.started.wait(30)
        others = [pool.submit(flight.run, "key", lambda: "second try", 30) for _ in range(2)]
        wait_until_waiting(2)
        gate.open.set()
        assert isinstance(first.exception(30), failure)
        assert [one.result(30) for one in others] == ["second try"] * 2


def test_shared_failures_can_be_named() -> None:
    """With shared=Exception any failure of the function is everybody's answer."""
    gate = Gate(lambda: 1 / 0)

    errors = run_together(SingleFlight(shared=Exception), gate)

    assert gate.calls == 1
    assert {type(one) for one in errors} == {ZeroDivisionError}


def test_a_wait_that_is_too_long_ends() -> None:
    """Who cannot wait longer is told; the call goes on for the others."""
    flight: SingleFlight[str, Any] = SingleFlight()
    gate = Gate()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(flight.run, "key", gate)
        assert gate.started.wait(30)
        for wait in (0, 0.01, -1):
            with pytest.raises(WaitTimeoutError):
                flight.run("key", gate, wait)
        gate.open.set()
        assert first.result(30) == "value"
    assert gate.calls == 1


@pytest.mark.parametrize("key", ["key", None])
def test_a_call_that_was_forgotten_is_not_joined(key: str | None) -> None:
    """After forget() a new call runs the function; who waits for the old one gets its value."""
    flight: SingleFlight[str, Any] = SingleFlight()
    gate = Gate()
    with ThreadPoolExecutor(2) as pool:
        first, second = (pool.submit(flight.run, "key", gate, 30) for _ in range(2))
        assert gate.started.wait(30)
        wait_until_waiting(1)
        flight.forget(key)
        assert flight.run("key", lambda: "new", wait=0) == "new"
        gate.open.set()
        assert (first.result(30), second.result(30)) == ("value", "value")


def test_a_call_within_the_call_for_the_same_key_is_refused() -> None:
    """It would wait for itself; for another key it runs."""
    flight: SingleFlight[str, str] = SingleFlight()

    with pytest.raises(ReentrantCallError):
        flight.run("key", lambda: flight.run("key", lambda: "never"))
    assert flight.run("key", lambda: flight.run("other", lambda: "inner")) == "inner"


def interrupt_at(line: int, on_function: Callable[[str], object] = str) -> Callable[..., Any]:
    """Return a trace function that raises KeyboardInterrupt at the nth line of the module."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        if frame.f_code.co_filename != single_flight.__file__:
            return None
        if event == "call":
            on_function(frame.f_code.co_name)
        if event == "line":
            count += 1
            if count == line:
                raise KeyboardInterrupt
        return trace

    return trace


def traced(trace: Callable[..., Any], call: Callable[[], object]) -> bool:
    """Run *call* in this thread; return whether it was interrupted."""
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    except ClientError:
        return False
    finally:
        sys.settrace(None)
    return False


def free(flight: SingleFlight[str, Any]) -> bool:
    """Return whether another thread can run a call, and none is left behind."""
    with ThreadPoolExecutor(1) as other:
        again = other.submit(flight.run, "key", lambda: "again", 0).result(30)
    return again == "again" and not flight._calls


def failing() -> str:
    raise ClientError("failed")


@pytest.mark.parametrize("make", [lambda: "value", failing])
def test_an_interrupt_at_any_line_of_the_running_thread_leaves_the_key_free(
    make: Callable[[], str],
) -> None:
    """The next call from another thread runs at once; a thread that waited meanwhile runs it."""
    line = 0
    interrupted = True
    while interrupted:
        line += 1
        flight: SingleFlight[str, str] = SingleFlight()
        # In a thread of its own: an exception that a trace function raises while another one is
        # being handled can stay the thread's current one, for every later test.
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(traced, interrupt_at(line), lambda: flight.run("key", make))  # noqa: B023
            interrupted = call.result(30)
        assert free(flight), f"line {line}"
    assert line > 10


def test_an_interrupt_at_any_line_of_the_running_thread_ends_no_wait() -> None:
    """Who waits gets the value, of the first call or of one that it makes itself."""
    line = 0
    interrupted = True
    while interrupted:
        line += 1
        flight: SingleFlight[str, str] = SingleFlight()
        gate = Gate()
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(traced, interrupt_at(line), lambda: flight.run("key", gate))  # noqa: B023
            while not (gate.started.wait(0.001) or first.done()):
                pass
            second = pool.submit(flight.run, "key", lambda: "own", 30)
            if not first.done():
                wait_until_waiting(1)
            gate.open.set()
            interrupted = first.result(30)
            assert second.result(30) in {"value", "own"}
        assert free(flight), f"line {line}"
    assert line > 10


def test_an_interrupt_at_any_line_of_a_waiting_thread_disturbs_nobody() -> None:
    """The call goes on, others who wait for it get its value, and the key is free afterwards."""
    line = 0
    interrupted = True
    while interrupted:
        line += 1
        flight: SingleFlight[str, Any] = SingleFlight()
        gate = Gate()
        with ThreadPoolExecutor(3) as pool:
            first = pool.submit(flight.run, "key", gate)
            assert gate.started.wait(30)
            third = pool.submit(flight.run, "key", gate, 30)
            wait_until_waiting(1)
            trace = interrupt_at(
                line,
                lambda name: gate.open.set() if name == "_wait_for" else None,  # noqa: B023
            )
            second = pool.submit(traced, trace, lambda: flight.run("key", gate, 30))  # noqa: B023
            interrupted = second.result(30)
            gate.open.set()
            assert (first.result(30), third.result(30)) == ("value", "value")
        assert free(flight), f"line {line}"
    assert line > 10


@pytest.mark.timeout(300, method="thread")
def test_real_signals_leave_no_key_locked() -> None:
    """Interrupts strike the running thread at random moments."""
    flight: SingleFlight[str, str] = SingleFlight()

    interrupt_often(lambda: flight.run("key", lambda: "value"))

    assert free(flight)


def test_a_forked_child_waits_for_no_call_of_its_parent() -> None:
    """The thread that runs the function is not in the child."""
    flight: SingleFlight[str, Any] = SingleFlight()
    gate = Gate()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(flight.run, "key", gate)
        assert gate.started.wait(30)
        child = os.fork()
        if child == 0:
            value = flight.run("key", lambda: "the child's", wait=0)
            os._exit(0 if value == "the child's" and not flight._calls else 1)
        gate.open.set()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert first.result(30) == "value"

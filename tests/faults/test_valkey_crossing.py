"""A call that is interrupted anywhere never leaves its reply to somebody else."""

from __future__ import annotations

import contextlib
import gc
import itertools
import multiprocessing
import random
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Self

import pytest

from clients._valkey.errors import PoolExhausted
from clients.valkey_client import ValkeyClient
from tests.fault_proxy import FaultProxy
from utils._stack.valkey import ValkeyServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

# The tests here take the alarm signal, which would end a test that hangs.
pytestmark = pytest.mark.timeout(300, method="thread")

INTERRUPTIONS = 20_000
NAMES = [f"name-{number}" for number in range(20)]


interrupts_sockets = pytest.mark.filterwarnings(
    # An interrupt between socket() and the next line leaves the closing to its destructor.
    "ignore:unclosed:ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)


class Interrupt(BaseException):
    """What a soft time-out raises out of a signal handler."""


class SoftTimeLimit(Exception):  # noqa: N818 - named as in task queues
    """The same as an ordinary exception, as some task queues raise it."""


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    """A server of this test's own."""
    with ValkeyServer() as started:
        yield started


class Alarm:
    """Raises in the main thread at a random moment of a call, in a part of all calls.

    How long it may take to ring follows from how long the calls take on this machine: it becomes
    longer with each call that was interrupted, and shorter with each one that was not.

    Args:
        share: Of how many calls one is interrupted.
    """

    def __init__(self, share: float) -> None:
        self.longest = 2.5e-4
        self.longer = 1.02
        self.shorter = self.longer ** (-share / (1 - share))
        self.kinds = [Interrupt, SoftTimeLimit]
        self.armed = False

    def __enter__(self) -> Self:
        self.previous = signal.signal(signal.SIGALRM, self._ring)
        return self

    def __exit__(self, *exc_info: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.previous)

    def _ring(self, _number: int, _frame: FrameType | None) -> None:
        if self.armed:
            self.armed = False
            self.longest *= self.longer
            raise random.choice(self.kinds)  # noqa: S311 - no matter of security

    def arm(self) -> None:
        """Ring once, soon."""
        self.armed = True
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, self.longest))  # noqa: S311

    def disarm(self) -> None:
        """Do not ring any more."""
        self.armed = False
        self.longest = max(self.longest * self.shorter, 1e-5)


def _one_call(client: ValkeyClient, kind: int) -> tuple[object, object]:
    """Return what a call gave, and what it should have given."""
    name = NAMES[kind % len(NAMES)]
    if kind % 10 == 0:
        pipe = client.pipeline().get(name).exists(name).get(NAMES[0])
        return pipe.execute(), [name, True, NAMES[0]]
    if kind % 10 == 1:
        return client.get_many([name, "missing"]), {name: name, "missing": None}
    if kind % 10 == 2:
        return client.get(name, 3600), name
    return client.get(name), name


def _calls_at_once(client: ValkeyClient, number: int) -> int:
    """Return how many of *number* threads that start together get their value."""
    gate = threading.Barrier(number)
    results: list[object] = []

    def one_of_them() -> None:
        gate.wait()
        results.append(client.get(NAMES[0]))

    threads = [threading.Thread(target=one_of_them) for _ in range(number)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return results.count(NAMES[0])


@pytest.mark.slow
@interrupts_sockets
def test_twenty_thousand_interrupted_calls_cross_no_reply(server: ValkeyServer) -> None:
    """Signals interrupt calls anywhere; every reply is the asker's own, and no place is lost."""
    client = ValkeyClient(server.url, max_connections=4)
    client.set_many({name: name for name in NAMES})
    foreign: list[tuple[object, object]] = []
    stop = threading.Event()

    def bystander() -> None:
        while not stop.wait(0.002):
            for kind in (3, 14):
                got, wanted = _one_call(client, kind)
                if got != wanted:
                    foreign.append((got, wanted))

    thread = threading.Thread(target=bystander)
    thread.start()
    interrupted = calls = 0
    try:
        with Alarm(share=0.75) as alarm:
            while interrupted < INTERRUPTIONS and calls < 3 * INTERRUPTIONS:
                calls += 1
                try:
                    alarm.arm()
                    got, wanted = _one_call(client, calls)
                    alarm.disarm()
                except (Interrupt, SoftTimeLimit):
                    interrupted += 1
                    continue
                if got != wanted:
                    foreign.append((got, wanted))
    finally:
        stop.set()
        thread.join()

    assert foreign == []
    assert interrupted >= INTERRUPTIONS
    assert _calls_at_once(client, 4) == 4
    assert int(client.client.info("clients")["connected_clients"]) <= 4 + 1
    client.close()


@pytest.mark.slow
@interrupts_sockets
def test_a_million_operations_with_interrupts_cross_no_reply(server: ValkeyServer) -> None:
    """In pipelines of fifty; each reply is the one that was asked for, and every place stays."""
    asked = [NAMES[number % len(NAMES)] for number in range(50)]
    checked = interrupted = turn = 0
    with ValkeyClient(server.url, max_connections=2) as client:
        client.set_many({name: name for name in NAMES})
        with Alarm(share=0.1) as alarm:
            while checked < 1_000_000:
                # The reply to another call's request would be another name.
                turn = (turn + 1) % len(NAMES)
                names = asked[turn:] + asked[:turn]
                pipe = client.pipeline()
                for name in names:
                    pipe.get(name)
                try:
                    alarm.arm()
                    got = pipe.execute()
                    alarm.disarm()
                except (Interrupt, SoftTimeLimit):
                    interrupted += 1
                    continue
                assert got == names
                checked += len(got)

        assert interrupted > 1000
        assert _calls_at_once(client, 2) == 2


@pytest.mark.parametrize("pause", [0.0, 0.1])
def test_a_late_reply_dies_with_its_connection(server: ValkeyServer, pause: float) -> None:
    """A call is interrupted while its reply is on the way; the next call gets its own value.

    Without a pause the late reply would come after the next request, with one before it.
    """
    with FaultProxy(server.port) as proxy:
        url = server.url.replace(str(server.port), str(proxy.port))
        with ValkeyClient(url) as client, Alarm(share=0.5) as alarm:
            client.set_many({"session:alice": "ALICE", "session:bob": "BOB"})
            proxy.delay = 0.03
            for call in (
                lambda: client.get("session:alice"),
                lambda: client.pipeline().get("session:alice").get("session:alice").execute(),
            ):
                alarm.armed = True
                signal.setitimer(signal.ITIMER_REAL, 0.02)
                with pytest.raises((Interrupt, SoftTimeLimit)):
                    call()
                time.sleep(pause)

                assert client.get("session:bob") == "BOB"


def _interrupt_calls_with_numbers(url: str) -> None:
    with ValkeyClient(f"{url}?db=1") as client, Alarm(share=0.75) as alarm:
        interrupted = 0
        while interrupted < 2000:
            with contextlib.suppress(Interrupt, SoftTimeLimit):
                alarm.arm()
                client.incr("n", 1, 60)
                client.rate_limit("r", 10, 1.0, 5)
                client.set("a", "x", 60)
                alarm.disarm()
            interrupted += not alarm.armed


@pytest.mark.slow
def test_an_interrupt_while_numbers_are_packed_does_not_crash(server: ValkeyServer) -> None:
    """Calls with numbers, interrupted thousands of times, leave the process alive."""
    child = multiprocessing.get_context("spawn").Process(
        target=_interrupt_calls_with_numbers, args=(server.url.removesuffix("/0"),)
    )
    child.start()
    child.join(240)

    assert child.exitcode == 0


class Profiler:
    """Interrupts at the n-th point at which the interpreter looks for signals.

    Those are calls, and the ends of calls of built-in functions.
    """

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, _frame: FrameType, event: str, _argument: object) -> None:
        """Count one event."""
        if event in {"call", "c_return"}:
            self.left -= 1
            if self.left == 0:
                raise Interrupt


@interrupts_sockets
@pytest.mark.parametrize(
    "warm",
    [True, pytest.param(False, marks=pytest.mark.slow)],
    ids=["on an idle connection", "on a new one"],
)
def test_an_interrupt_at_any_point_crosses_nothing_and_loses_no_place(
    server: ValkeyServer,
    warm: bool,  # noqa: FBT001 - a parameter of the table
) -> None:
    """Each point of a call in turn, with every exception kept by the caller."""
    kept: list[BaseException] = []
    with ValkeyClient(server.url, max_connections=2, connect_timeout=0.5) as client:
        client.set_many({"a": "A", "b": "B"})
        link: Any = client.runner.link
        for point in itertools.count(1):
            if not warm:
                link.pool.drop_idle()
            profiler = Profiler(point)
            sys.setprofile(profiler)
            try:
                client.pipeline().get("a").get("a").execute()
            except Interrupt as error:
                kept.append(error)
            finally:
                sys.setprofile(None)
            assert client.get("b") == "B"
            if profiler.left > 0:
                break

        assert len(kept) > 50
        assert _places(client) == 2
    kept.clear()
    gc.collect()


def _places(client: ValkeyClient) -> int:
    pool: Any = client.runner.link
    taken = []
    with contextlib.suppress(PoolExhausted):
        while True:
            taken.append(pool.pool.take())
    return len(taken)


def test_retained_exceptions_hold_no_place_in_the_pool(server: ValkeyServer) -> None:
    """More failures than places, all kept by the caller: the pool still has every place."""
    kept: list[BaseException] = []
    with FaultProxy(server.port) as proxy:
        url = server.url.replace(str(server.port), str(proxy.port))
        with ValkeyClient(url, max_connections=2, socket_timeout=0.2) as client:
            proxy.stall.set()
            for _ in range(4):
                try:
                    client.get("a")
                except Exception as error:  # noqa: BLE001 - whatever it is, it is kept
                    kept.append(error)
            proxy.stall.clear()

            assert client.set("a", "x") is True
    assert len(kept) == 4

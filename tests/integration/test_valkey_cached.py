"""Cache-aside: produced once, failed cleanly, renewed early."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from itertools import product
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from redis.crc import key_slot

from clients._valkey.cached import lock_name
from clients.errors import ValkeyConfigurationError
from clients.valkey_client import ValkeyClient, ValkeyError
from tests.valkey_helpers import at_once
from utils._stack.valkey import ValkeyServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from utils.local_stack import StackEndpoints


class Interrupt(BaseException):
    """What a signal handler raises."""


@pytest.fixture
def client(stack: StackEndpoints) -> Iterator[ValkeyClient]:
    """A client whose keys no other test uses."""
    with ValkeyClient(stack.valkey_url, key_prefix=f"test-{uuid4().hex}:") as opened:
        yield opened


class Producer:
    """Counts how often it was asked."""

    def __init__(self, value: Any = "value", seconds: float = 0.0) -> None:
        self.calls = 0
        self.value = value
        self.seconds = seconds
        self._lock = threading.Lock()

    def __call__(self) -> Any:
        """Return the value, or raise it."""
        with self._lock:
            self.calls += 1
        time.sleep(self.seconds)
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value


def _left_behind(client: ValkeyClient) -> list[str]:
    return list(client.client.scan_iter(match=f"*{client.key_prefix}*"))


def test_the_second_caller_gets_the_cached_value(client: ValkeyClient) -> None:
    """The value is produced once, as JSON, with its expiry, and without a lock left."""
    produce = Producer({"a": (1, 2)})

    assert client.cached("k", 60, produce) == {"a": [1, 2]}
    assert client.cached("k", 60, produce) == {"a": [1, 2]}
    assert produce.calls == 1
    assert client.get_json("k") == {"a": [1, 2]}
    assert 50 < client.ttl("k") <= 60
    assert len(_left_behind(client)) == 1


def test_null_is_a_value(client: ValkeyClient) -> None:
    """A producer that finds nothing is asked once, too."""
    produce = Producer(None)

    assert client.cached("k", 60, produce) is None
    assert client.cached("k", 60, produce) is None
    assert produce.calls == 1


def test_deleting_the_key_has_it_produced_again(client: ValkeyClient) -> None:
    """An invalidation is a plain delete."""
    produce = Producer()
    client.cached("k", 60, produce)
    client.delete("k")
    client.cached("k", 60, produce)

    assert produce.calls == 2


def test_a_hundred_threads_have_it_produced_once(client: ValkeyClient) -> None:
    """All wait for the one producer; each gets a value of its own."""
    produce = Producer({"a": []}, seconds=0.3)
    results = at_once(100, lambda: client.cached("k", 60, produce))

    assert results == [{"a": []}] * 100
    assert len({id(result) for result in results}) == 100
    assert produce.calls == 1


def _produce_in_a_process(url: str, prefix: str, ready: Any) -> None:
    with ValkeyClient(url, key_prefix=prefix) as client:

        def produce() -> str:
            client.incr("calls")
            time.sleep(0.5)
            return "value"

        ready.wait()
        at_once(8, lambda: client.cached("k", 60, produce))


@pytest.mark.slow
def test_four_processes_have_it_produced_once(client: ValkeyClient, stack: StackEndpoints) -> None:
    """The lock holds across processes."""
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(4)
    arguments = (stack.valkey_url, client.key_prefix, ready)
    processes = [context.Process(target=_produce_in_a_process, args=arguments) for _ in range(4)]
    for one in processes:
        one.start()
    for one in processes:
        one.join(60)

    assert [one.exitcode for one in processes] == [0] * 4
    assert client.get("calls") == "1"
    assert client.get_json("k") == "value"


def test_a_failing_producer_leaves_nothing(client: ValkeyClient) -> None:
    """Its own error comes out, neither value nor lock stays, and the next caller may try."""
    with pytest.raises(ZeroDivisionError):
        client.cached("k", 60, Producer(ZeroDivisionError()))

    assert _left_behind(client) == []
    assert client.cached("k", 60, Producer("fine")) == "fine"


def test_the_failure_reaches_all_who_wait(client: ValkeyClient) -> None:
    """A hundred waiting threads do not try one after the other what has just failed."""
    produce = Producer(ZeroDivisionError(), seconds=0.5)
    results = at_once(50, lambda: client.cached("k", 60, produce))

    assert {type(result) for result in results} == {ZeroDivisionError}
    assert produce.calls == 1
    assert _left_behind(client) == []


def test_an_interrupted_producer_leaves_nothing(client: ValkeyClient) -> None:
    """An interrupt is the interrupted caller's alone: whoever waits produces for himself."""
    interrupted = Producer(Interrupt(), seconds=0.3)
    caught: list[BaseException] = []

    def first() -> None:
        try:
            client.cached("k", 60, interrupted)
        except Interrupt as error:
            caught.append(error)

    thread = threading.Thread(target=first)
    thread.start()
    time.sleep(0.1)
    assert client.cached("k", 60, Producer("second")) == "second"
    thread.join()

    assert len(caught) == 1


def test_values_that_are_no_json_leave_nothing(client: ValkeyClient) -> None:
    """The producer's value is refused before anything is written."""
    with pytest.raises(ValkeyConfigurationError, match="not JSON"):
        client.cached("k", 60, Producer({1, 2}))

    assert _left_behind(client) == []


def test_a_hot_key_is_renewed_before_it_ends(client: ValkeyClient) -> None:
    """In the last tenth of its life one caller renews, and the others still get the old value."""
    client.set_json("k", "old", 600)
    client.expire("k", 5)
    produce = Producer("new", seconds=0.3)
    results = at_once(20, lambda: client.cached("k", 60, produce))

    assert produce.calls == 1
    assert sorted(results) == ["new"] + ["old"] * 19  # type: ignore[type-var]
    assert client.ttl("k") > 50


def test_a_failed_early_renewal_keeps_the_value(
    client: ValkeyClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The value is still good: it is returned, and a warning names the key and not the value."""
    client.set_json("k", "private", 5)
    with caplog.at_level(logging.WARNING):
        assert client.cached("k", 600, Producer(ZeroDivisionError())) == "private"

    assert "ZeroDivisionError" in caplog.text
    assert "private" not in caplog.text
    assert len(_left_behind(client)) == 1


def test_a_dead_producer_delays_the_others_by_its_lock(client: ValkeyClient) -> None:
    """A lock whose owner died ends by itself."""
    client.client.set(lock_name(client.key_prefix, client.key_prefix + "k"), "dead", px=500)
    start = time.monotonic()

    assert client.cached("k", 60, Producer(), lock_seconds=1) == "value"
    assert 0.3 < time.monotonic() - start < 5


def test_a_lock_ends_with_lock_seconds(client: ValkeyClient) -> None:
    """It is the caller's own, and lives no longer than it asked for."""
    lock = lock_name(client.key_prefix, client.key_prefix + "k")
    lives: list[Any] = []

    client.cached("k", 60, lambda: lives.append(client.client.pttl(lock)), lock_seconds=7)

    assert 0 < lives[0] <= 7000


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_forked_child_does_not_wait_for_its_parent_s_thread(client: ValkeyClient) -> None:
    """That thread does not exist in the child, which looks for the value instead."""
    produce = Producer("value", seconds=0.5)
    thread = threading.Thread(target=client.cached, args=("k", 60, produce))
    thread.start()
    time.sleep(0.2)
    child = os.fork()
    if child == 0:
        # It would wait for an hour.
        signal.alarm(10)
        good = client.cached("k", 60, Producer("another"), lock_seconds=3600) == "value"
        os._exit(0 if good else 1)
    _, code = os.waitpid(child, 0)
    thread.join()

    assert code == 0


def test_a_producer_slower_than_its_lock_stores_nothing(client: ValkeyClient) -> None:
    """Whoever began anew in the meantime is not overwritten."""

    def slow() -> str:
        client.client.delete(lock_name(client.key_prefix, client.key_prefix + "k"))
        client.set_json("k", "newer", 60)
        return "older"

    assert client.cached("k", 60, slow) == "older"
    assert client.get_json("k") == "newer"


def test_a_producer_that_asks_for_its_own_key_is_told_so(client: ValkeyClient) -> None:
    """It would wait for itself: that fails at once, and leaves neither value nor lock."""

    def produce() -> object:
        return client.cached("k", 60, Producer())

    with pytest.raises(ValkeyError, match=r"k'.*reads the same key"):
        client.cached("k", 60, produce, lock_seconds=3600)

    assert _left_behind(client) == []


def test_a_value_that_cannot_be_stored_leaves_no_lock() -> None:
    """A server that is full when the value comes refuses it, and the next caller may try."""
    with ValkeyServer() as server, ValkeyClient(server.url) as client:

        def produce() -> str:
            client.client.config_set("maxmemory", "1mb")
            return "value"

        with pytest.raises(ValkeyError, match=r"k'.*OOM"):
            client.cached("k", 60, produce)

        assert _left_behind(client) == []


def test_a_user_of_one_prefix_may_cache(client: ValkeyClient, stack: StackEndpoints) -> None:
    """The lock begins with the client's prefix, too, as ACL rules for keys want it."""
    admin, user = client.client, f"u{uuid4().hex}"
    admin.acl_setuser(
        user, enabled=True, passwords=["+pw"], keys=[client.key_prefix + "*"], commands=["+@all"]
    )
    try:
        host = stack.valkey_url.rpartition("@")[2]
        url = f"redis://{user}:pw@{host}"
        with ValkeyClient(url, key_prefix=client.key_prefix) as narrow:
            for key in ("plain", "{tag}", "a}b", "{}", "a{b"):
                assert narrow.cached(key, 60, Producer(key)) == key
    finally:
        admin.acl_deluser(user)


def test_a_failed_producer_releases_its_own_lock_only(client: ValkeyClient) -> None:
    """When its lock ran out meanwhile, the next producer's stays."""
    lock = lock_name(client.key_prefix, client.key_prefix + "k")

    def late() -> None:
        client.client.set(lock, "the next one's")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        client.cached("k", 60, late)

    assert client.client.get(lock) == "the next one's"


def test_a_stuck_lock_does_not_block_for_ever(client: ValkeyClient) -> None:
    """When somebody renews a lock without end, the value is produced without it."""
    client.client.set(lock_name(client.key_prefix, client.key_prefix + "k"), "stuck")

    assert client.cached("k", 60, Producer(), lock_seconds=1) == "value"


def test_something_else_under_the_key_is_an_error(client: ValkeyClient) -> None:
    """Neither another type nor text that is no JSON counts as absent."""
    client.client.rpush(client.key_prefix + "list", "x")
    client.set("text", "{")

    with pytest.raises(ValkeyError, match="WRONGTYPE"):
        client.cached("list", 60, Producer())
    with pytest.raises(ValkeyError, match="not JSON"):
        client.cached("text", 60, Producer())


@pytest.mark.parametrize("seconds", [0, -1, None, 1.5, True])
def test_bad_expiries_are_refused(client: ValkeyClient, seconds: int) -> None:
    """Nothing is produced for a cache that could not keep it."""
    produce = Producer()

    with pytest.raises(ValkeyConfigurationError):
        client.cached("k", seconds, produce)
    with pytest.raises(ValkeyConfigurationError):
        client.cached("k", 60, produce, lock_seconds=seconds)
    assert produce.calls == 0


@given(st.sampled_from(["", "app:", "{app}:"]), st.text("ab{}", min_size=1, max_size=8))
@example("", "report:{}")
def test_the_lock_lies_in_the_slot_of_its_key(prefix: str, key: str) -> None:
    """Value and lock are touched in one step, so a cluster must hold them together."""
    lock = lock_name(prefix, prefix + key)

    assert key_slot(lock.encode()) == key_slot((prefix + key).encode())
    assert lock.startswith(prefix)


def test_no_two_keys_share_a_lock() -> None:
    """A key and the same key as a hash tag do not wait for each other."""
    keys = ["".join(letters) for n in (1, 2, 3, 4) for letters in product("a{}", repeat=n)]

    assert len({lock_name("", key) for key in keys} | set(keys)) == 2 * len(keys)

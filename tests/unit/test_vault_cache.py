"""The cache of secrets, without a server."""

from __future__ import annotations

import contextlib
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients._vault.cache import CacheKey, SecretCache
from clients.errors import VaultConnectionError, VaultError, VaultSecretNotFoundError
from tests.source_files import is_of_the_clients

if TYPE_CHECKING:
    from types import FrameType

_A: CacheKey = (None, "secret", "a", None)
_B: CacheKey = (None, "secret", "b", None)


class _Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class _Server:
    """Counts loads; each one returns another value."""

    def __init__(self) -> None:
        self.loads = 0

    def __call__(self) -> dict[str, Any]:
        self.loads += 1
        return {"n": self.loads, "deep": {"list": [1]}}


def _long_wait() -> float:
    return 20.0


def _read(cache: SecretCache, load: Any, key: CacheKey = _A, *, fresh: bool = False) -> Any:
    return cache.read(key, load, fresh=fresh, wait=_long_wait)


def test_an_entry_lives_for_its_ttl_and_no_longer() -> None:
    """Within the TTL the server is left alone; from then on it is asked."""
    clock, server = _Clock(), _Server()
    cache = SecretCache(5.0, clock=clock)
    _read(cache, server)
    clock.now += 4.9
    _read(cache, server)
    assert server.loads == 1
    clock.now += 0.1
    _read(cache, server)

    assert server.loads == 2


def test_callers_get_copies() -> None:
    """What one caller does to its secret, however deep, no other one sees."""
    cache, server = SecretCache(5.0), _Server()
    for _ in range(2):
        secret = _read(cache, server)
        secret["deep"]["list"].append(2)
        secret["new"] = 1

    assert _read(cache, server) == {"n": 1, "deep": {"list": [1]}}


def test_a_hit_is_what_a_read_would_return() -> None:
    """The short way to a cached secret: a copy, counted as a hit, and nothing once it expired."""
    clock, server = _Clock(), _Server()
    cache = SecretCache(5.0, clock=clock)
    assert cache.hit(_A) is None
    _read(cache, server)

    found = cache.hit(_A)
    assert found == {"n": 1, "deep": {"list": [1]}}
    found["deep"]["list"].append(2)
    assert cache.hit(_A) == {"n": 1, "deep": {"list": [1]}}
    clock.now += 5.0
    assert cache.hit(_A) is None

    stats = cache.stats()
    assert (stats["hits"], stats["misses"], server.loads) == (2, 1, 1)


def test_a_key_differs_by_each_of_its_parts() -> None:
    """Namespace, mount, path and version are all told apart."""
    cache, server = SecretCache(5.0), _Server()
    keys: list[CacheKey] = [_A, _B, (None, "kv", "a", None), ("ns", "secret", "a", None)]
    keys += [(None, "secret", "a", 1), (None, "secret", "a", 2)]

    assert len({_read(cache, server, key)["n"] for key in keys * 2}) == len(keys)


def test_fresh_reads_refresh_the_entry() -> None:
    """`use_cache=False` leaves the new value to those who do use the cache."""
    cache, server = SecretCache(5.0), _Server()
    _read(cache, server)
    _read(cache, server, fresh=True)

    assert _read(cache, server)["n"] == 2
    assert cache.stats()["misses"] == 2


def test_a_ttl_of_zero_keeps_nothing() -> None:
    """Every read goes to the server, and is counted."""
    cache, server = SecretCache(0.0), _Server()
    for _ in range(3):
        _read(cache, server)

    assert server.loads == 3
    assert cache.stats() == {
        "hits": 0,
        "misses": 3,
        "coalesced": 0,
        "entries": 0,
        "hit_rate": 0.0,
    }


def test_failures_are_not_cached() -> None:
    """A secret that appears after a failed read is seen by the next one."""
    cache, server = SecretCache(5.0), _Server()

    def fail() -> dict[str, Any]:
        raise VaultSecretNotFoundError("missing", reason="missing")

    for _ in range(2):
        with pytest.raises(VaultSecretNotFoundError):
            _read(cache, fail)

    assert _read(cache, server)["n"] == 1


def test_a_secret_that_is_gone_is_no_longer_served() -> None:
    """A fresh read that finds nothing drops the entry; one that could not ask leaves it."""
    cache, server = SecretCache(5.0), _Server()
    _read(cache, server)

    def unreachable() -> dict[str, Any]:
        raise VaultConnectionError("down", reason="unreachable")

    def gone() -> dict[str, Any]:
        raise VaultSecretNotFoundError("deleted", reason="deleted")

    with pytest.raises(VaultConnectionError):
        _read(cache, unreachable, fresh=True)
    assert _read(cache, server)["n"] == 1
    with pytest.raises(VaultSecretNotFoundError):
        _read(cache, gone, fresh=True)
    with pytest.raises(VaultSecretNotFoundError):
        _read(cache, gone)


def test_the_number_of_entries_is_bounded() -> None:
    """A caller who asks for ever new paths does not fill the memory; expired ones go first."""
    clock, server = _Clock(), _Server()
    cache = SecretCache(5.0, max_entries=3, clock=clock)
    for name in "abcde":
        _read(cache, server, (None, "secret", name, None))
    assert cache.stats()["entries"] == 3
    _read(cache, server, (None, "secret", "e", None))
    assert server.loads == 5
    clock.now += 6

    assert cache.stats()["entries"] == 0


class _SlowServer:
    """A load that waits until it is let go."""

    def __init__(self, outcome: Exception | BaseException | dict[str, Any]) -> None:
        self.outcome = outcome
        self.began = threading.Event()
        self.let_go = threading.Event()
        self.loads = 0

    def __call__(self) -> dict[str, Any]:
        self.loads += 1
        self.began.set()
        assert self.let_go.wait(20)
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


def _wait_until_blocked(count: int) -> None:
    """Wait until that many threads wait for another one's load."""
    for _ in range(2000):
        frames = sys._current_frames().values()
        if sum(frame.f_code.co_name == "_wait_for" for frame in frames) == count:
            return
        threading.Event().wait(0.005)
    raise AssertionError("it never happened")


def test_threads_that_miss_together_share_one_load() -> None:
    """Sixteen threads, one load: one miss, fifteen coalesced, each with a copy of its own."""
    cache, slow = SecretCache(5.0), _SlowServer({"a": []})
    with ThreadPoolExecutor(16) as pool:
        futures = [pool.submit(_read, cache, slow) for _ in range(16)]
        _wait_until_blocked(15)
        slow.let_go.set()
        results = [future.result() for future in futures]

    assert slow.loads == 1
    assert len({id(result["a"]) for result in results}) == 16
    assert cache.stats()["misses"] == 1


def test_a_failed_load_fails_all_who_waited_each_with_its_own_error() -> None:
    """An error is shared and not tried again by each waiter, and no object is raised twice."""
    error = VaultConnectionError("down", reason="unreachable", status=502)
    error.__cause__ = OSError("cut")
    cache, slow = SecretCache(5.0), _SlowServer(error)
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(_read, cache, slow) for _ in range(4)]
        _wait_until_blocked(3)
        slow.let_go.set()
        errors = [future.exception() for future in futures]

    assert slow.loads == 1
    assert len({id(one) for one in errors}) == 4
    for one in errors:
        assert isinstance(one, VaultConnectionError)
        assert (str(one), one.reason, one.status) == ("down", "unreachable", 502)
        assert "cut" in str(one.__cause__)
    assert len({id(one.__cause__) for one in errors if one is not None}) == 4


def test_an_interrupted_load_is_taken_over_by_a_waiter() -> None:
    """Ctrl-C in one thread is no answer for another one."""
    cache, slow = SecretCache(5.0), _SlowServer(KeyboardInterrupt())
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(_read, cache, slow)
        assert slow.began.wait(20)
        second = pool.submit(_read, cache, _Server())
        _wait_until_blocked(1)
        slow.let_go.set()
        assert second.result() == {"n": 1, "deep": {"list": [1]}}
        assert isinstance(first.exception(), KeyboardInterrupt)


def test_a_waiter_that_takes_over_counts_once() -> None:
    """The load that it waited for was interrupted, and it finds what another read brought."""
    cache, slow = SecretCache(5.0), _SlowServer(KeyboardInterrupt())
    with ThreadPoolExecutor(2) as pool:
        pool.submit(_read, cache, slow)
        assert slow.began.wait(20)
        second = pool.submit(_read, cache, _Server())
        _wait_until_blocked(1)
        _read(cache, _Server(), fresh=True)
        slow.let_go.set()
        assert second.result()["n"] == 1

    stats = cache.stats()
    assert (stats["hits"], stats["misses"], stats["coalesced"]) == (1, 2, 0)


@pytest.mark.parametrize("fresh", [False, True])
def test_an_interruption_anywhere_blocks_no_key(*, fresh: bool) -> None:
    """Ctrl-C on any line of a read costs later ones at most one wait, and no count its sense."""
    done = False
    for strike in range(1000):
        cache, server = SecretCache(5.0), _Server()
        done = _interrupted_read(cache, server, strike, fresh=fresh)
        if done:
            break
        with contextlib.suppress(VaultConnectionError):
            cache.read(_A, server, fresh=False, wait=lambda: 0.01)
        assert _read(cache, server)["deep"] == {"list": [1]}
        stats = cache.stats()
        assert 2 <= stats["hits"] + stats["misses"] + stats["coalesced"] <= 3

    assert done
    assert strike > 10


def _interrupted_read(cache: SecretCache, server: _Server, strike: int, *, fresh: bool) -> bool:
    """Interrupt a read on its line number *strike*; return whether it was over before."""
    lock: Any = cache._lock
    lines = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal lines
        if not is_of_the_clients(frame):
            return None
        # A real signal is not handled between the last line of a lock's block and its release.
        if event == "line" and not lock._is_owned():
            lines += 1
            if lines == strike + 1:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        _read(cache, server, fresh=fresh)
    except KeyboardInterrupt:
        return False
    finally:
        sys.settrace(before)
    return True


def test_a_waiter_does_not_wait_beyond_its_own_deadline() -> None:
    """A stuck load makes its waiters fail in time, and says so."""
    cache, slow = SecretCache(5.0), _SlowServer({})
    with ThreadPoolExecutor(1) as pool:
        pool.submit(_read, cache, slow)
        assert slow.began.wait(20)
        with pytest.raises(VaultConnectionError, match="'a' was not read in time") as caught:
            cache.read(_A, slow, fresh=False, wait=lambda: 0.01)
        # It is over for those who come later, too: they do not wait for the stuck one in turn.
        assert cache.read(_A, _Server(), fresh=False, wait=lambda: 0.01)["n"] == 1
        slow.let_go.set()

    assert caught.value.reason == "timeout"


def test_clearing_also_forgets_what_is_on_its_way() -> None:
    """After clear_cache() nobody gets a value that was asked for before it."""
    cache, slow, server = SecretCache(5.0), _SlowServer({"old": 1}), _Server()
    with ThreadPoolExecutor(1) as pool:
        old = pool.submit(_read, cache, slow)
        assert slow.began.wait(20)
        cache.clear()
        assert _read(cache, server) == {"n": 1, "deep": {"list": [1]}}
        slow.let_go.set()
        assert old.result() == {"old": 1}

    assert _read(cache, server)["n"] == 1


def test_an_answer_that_clearing_has_overtaken_is_not_kept() -> None:
    """It goes to its own caller alone, also when nobody has asked in between."""
    cache, slow = SecretCache(5.0), _SlowServer({"old": 1})
    with ThreadPoolExecutor(1) as pool:
        old = pool.submit(_read, cache, slow)
        assert slow.began.wait(20)
        cache.clear()
        slow.let_go.set()
        assert old.result() == {"old": 1}

    assert cache.stats()["entries"] == 0
    assert _read(cache, _Server())["n"] == 1


def test_a_slow_old_answer_does_not_overwrite_a_newer_one() -> None:
    """The entry is the answer to the latest question, not the one that came in last."""
    cache, slow, server = SecretCache(5.0), _SlowServer({"old": 1}), _Server()
    with ThreadPoolExecutor(1) as pool:
        old = pool.submit(_read, cache, slow)
        assert slow.began.wait(20)
        _read(cache, server, fresh=True)
        slow.let_go.set()
        old.result()

    assert _read(cache, server)["n"] == 1


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), min_size=1, max_size=40),
    st.sampled_from([0.0, 0.0005, 5.0]),
)
def test_the_counts_add_up_under_threads(reads: list[tuple[str, bool]], ttl: float) -> None:
    """Hits, misses and coalesced reads are all reads, failed ones included."""
    cache = SecretCache(ttl, max_entries=2)

    def one(read: tuple[str, bool]) -> None:
        name, fresh = read
        key: CacheKey = (None, "secret", name, None)

        def load() -> dict[str, Any]:
            if name == "c":
                raise VaultError("no")
            return {"name": name}

        if name == "c":
            with pytest.raises(VaultError):
                _read(cache, load, key, fresh=fresh)
        else:
            assert _read(cache, load, key, fresh=fresh) == {"name": name}

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, reads * 3))
    stats = cache.stats()

    assert stats["hits"] + stats["misses"] + stats["coalesced"] == len(reads) * 3
    assert stats["entries"] <= 2
    assert stats["hit_rate"] == stats["hits"] / (len(reads) * 3)

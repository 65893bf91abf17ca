"""The rate limit is exact: against a model, under threads and processes, and at its edges."""

from __future__ import annotations

import math
import multiprocessing
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clients.errors import ValkeyConfigurationError
from clients.valkey_client import ValkeyClient, ValkeyError
from tests.valkey_helpers import at_once

if TYPE_CHECKING:
    from collections.abc import Iterator

    from utils.local_stack import StackEndpoints

THREADS = 32
PROCESSES = 4


@pytest.fixture
def client(stack: StackEndpoints) -> Iterator[ValkeyClient]:
    """A client whose keys no other test uses."""
    with ValkeyClient(stack.valkey_url, key_prefix=f"test-{uuid4().hex}:") as opened:
        yield opened


class Bucket:
    """The reference: a bucket of *burst* units that refills at the limit's rate."""

    def __init__(self, limit: int, period: float, burst: int) -> None:
        self.interval = math.ceil(round(period * 1e6) / limit) / 1e6
        self.burst = burst
        self.level = float(burst)
        self.at: float | None = None

    def would(self, cost: int, now: float) -> bool | None:
        """Return the answer; None when the clock is too coarse to say."""
        level = self.level
        if self.at is not None:
            level = min(self.burst, level + (now - self.at) / self.interval)
        return None if abs(level - cost) < 1e-2 else level >= cost


def _server_time(client: ValkeyClient) -> float:
    seconds, microseconds = client.client.time()
    return float(seconds) + microseconds / 1e6


@given(
    limit=st.integers(1, 50),
    burst=st.integers(1, 20),
    costs=st.lists(st.integers(1, 5), min_size=1, max_size=30),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_the_answers_are_a_bucket_s(
    client: ValkeyClient, limit: int, burst: int, costs: list[int]
) -> None:
    """For any limit, burst and costs the answers are those of a reference bucket.

    The period is a day, so that the microseconds between two calls matter nowhere.
    """
    key = uuid4().hex
    level = burst
    for cost in (cost for cost in costs if cost <= burst):
        answer = client.rate_limit(key, limit, 86_400, burst, cost)

        assert answer.allowed == (level >= cost)
        level -= cost if answer.allowed else 0
        assert answer.remaining == level
        assert (answer.retry_after == 0) == answer.allowed
        interval = 86_400 / limit
        assert answer.reset_after == pytest.approx((burst - level) * interval, abs=30)
        if not answer.allowed:
            assert answer.retry_after == pytest.approx((cost - level) * interval, abs=30)


def test_the_answers_follow_the_clock(client: ValkeyClient) -> None:
    """With a short period the answers are a bucket's that refills by the server's clock."""
    # Between the two readings around it lies the moment of the server's answer; a model that
    # has had the most time to refill, and one that has had the least, enclose the truth.
    most, least = Bucket(200, 1, 5), Bucket(200, 1, 5)
    compared = 0
    for number in range(300):
        before = _server_time(client)
        answer = client.rate_limit("k", 200, 1, 5)
        after = _server_time(client)
        expected = {most.would(1, after), least.would(1, before)}
        if len(expected) == 1 and None not in expected:
            compared += 1
            assert answer.allowed in expected
        level = 5 - answer.reset_after / most.interval
        most.level, most.at = level, before
        least.level, least.at = level, after
        if number % 7 == 0:
            time.sleep(0.004)
    assert compared > 100


def test_denied_until_retry_after_and_allowed_then(client: ValkeyClient) -> None:
    """retry_after is neither too short nor too long."""
    for number in range(20):
        key = f"k{number}"
        asked_at = time.monotonic()
        while (answer := client.rate_limit(key, 4, 1)).allowed:
            asked_at = time.monotonic()
        assert 0 < answer.retry_after <= 0.25
        time.sleep(max(0.0, answer.retry_after - 0.1))
        early = client.rate_limit(key, 4, 1)
        if time.monotonic() - asked_at < answer.retry_after:
            break
        # The machine stalled: the second question came when it may be allowed.
    else:
        pytest.fail("the machine stalled in each of 20 tries")
    time.sleep(early.retry_after)

    assert not early.allowed
    assert client.rate_limit(key, 4, 1).allowed


def _hammer(url: str, key: str, gate: Any, seconds: float, results: Any) -> None:
    with ValkeyClient(url) as client:

        def ask() -> list[tuple[float, float]]:
            allowed, end = [], time.monotonic() + seconds
            while (before := time.monotonic()) < end:
                if client.rate_limit(key, 100, 1.0, 20).allowed:
                    allowed.append((before, time.monotonic()))
            return allowed

        gate.wait()
        results.put(at_once(THREADS // PROCESSES, ask))


@pytest.mark.slow
def test_never_more_than_allowed_in_any_window(stack: StackEndpoints) -> None:
    """32 threads in 4 processes: the limit is used up, and in no window exceeded."""
    context = multiprocessing.get_context("spawn")
    key = f"test-{uuid4().hex}"
    gate, results = context.Barrier(PROCESSES), context.Queue()
    arguments = (stack.valkey_url, key, gate, 2.5, results)
    processes = [context.Process(target=_hammer, args=arguments) for _ in range(PROCESSES)]
    for one in processes:
        one.start()
    # When each that was allowed was sent, and when its answer was there: one clock for all.
    calls = sorted(call for _ in processes for part in results.get() for call in part)
    for one in processes:
        one.join(60)

    for start, _ in calls[::5]:
        ends = sorted(end for sent, end in calls if sent >= start)
        for number, end in enumerate(ends, 1):
            assert number <= 20 + 100 * (end - start) + 1
    # In a stall of the machine nobody asks, and the bucket does not fill above its 20.
    times = sorted(end for _, end in calls)
    usable = 20 + sum(100 * min(later - earlier, 0.2) for earlier, later in pairwise(times))
    assert 0.9 * usable <= len(calls)


def test_threads_share_one_burst_exactly(client: ValkeyClient) -> None:
    """However many ask at once, exactly the burst is allowed."""
    answers = at_once(32, lambda: [client.rate_limit("k", 1, 3600, 50) for _ in range(10)])
    allowed = [one.allowed for part in answers if isinstance(part, list) for one in part]

    assert len(allowed) == 320
    assert sum(allowed) == 50


def test_a_denied_request_costs_nothing(client: ValkeyClient) -> None:
    """What is denied is not booked, and a smaller request may still pass."""
    assert client.rate_limit("k", 10, 3600, cost=8).remaining == 2
    assert not client.rate_limit("k", 10, 3600, cost=3).allowed
    last = client.rate_limit("k", 10, 3600, cost=2)
    assert (last.allowed, last.remaining, last.retry_after) == (True, 0, 0.0)
    assert last.reset_after == pytest.approx(3600, abs=2)


def test_the_key_expires_with_the_limit(client: ValkeyClient) -> None:
    """A limiter that nobody uses leaves nothing behind."""
    client.rate_limit("k", 10, 1)
    ttl = client.client.pttl(client.key_prefix + "k")

    assert isinstance(ttl, int)
    assert 0 < ttl <= 101
    client.rate_limit("denied", 1, 100)
    client.rate_limit("denied", 1, 100)
    assert 95 <= client.ttl("denied") <= 100


def test_a_clock_set_back_locks_nobody_out(client: ValkeyClient) -> None:
    """A state from the future is cut to one full burst."""
    client.set("k", str(10**16))

    answer = client.rate_limit("k", 10, 1)

    assert not answer.allowed
    assert answer.retry_after <= 0.11
    time.sleep(answer.retry_after)
    assert client.rate_limit("k", 10, 1).allowed


def test_a_changed_limit_applies_at_once(client: ValkeyClient) -> None:
    """The limit is the caller's: a stricter one does not lock out, a wider one helps."""
    for _ in range(10):
        client.rate_limit("k", 10, 3600)

    assert not client.rate_limit("k", 10, 3600).allowed
    assert client.rate_limit("k", 20, 3600, burst=21).allowed


def test_another_value_under_the_key_is_an_error(client: ValkeyClient) -> None:
    """A text that is no limiter's is not overwritten."""
    client.set("k", "hello")

    with pytest.raises(ValkeyError, match=r"k'.*WRONGTYPE") as caught:
        client.rate_limit("k", 1, 1)

    assert caught.value.code == "WRONGTYPE"
    assert client.get("k") == "hello"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": -1}, "limit"),
        ({"limit": 1.5}, "limit"),
        ({"limit": True}, "limit"),
        ({"period_seconds": 0}, "period_seconds"),
        ({"period_seconds": float("nan")}, "period_seconds"),
        ({"period_seconds": float("inf")}, "period_seconds"),
        ({"period_seconds": "1"}, "period_seconds"),
        ({"burst": 0}, "burst"),
        ({"cost": 0}, "cost"),
        ({"cost": 11}, "could never pass"),
        ({"limit": 10_000_000}, "one per microsecond"),
        ({"limit": 1, "period_seconds": 1e12}, "ten years"),
        ({"limit": 1, "period_seconds": 1e308}, "period_seconds"),
        ({"limit": 1, "period_seconds": 10**400}, "period_seconds"),
    ],
)
def test_bad_numbers_are_refused(
    client: ValkeyClient, arguments: dict[str, Any], reason: str
) -> None:
    """Each is named, and nothing is asked."""
    with pytest.raises(ValkeyConfigurationError, match=reason):
        client.rate_limit("k", **({"limit": 10, "period_seconds": 1} | arguments))

    assert not client.exists("k")


def test_a_rate_that_does_not_come_out_even_is_rounded_down(client: ValkeyClient) -> None:
    """Never more than the limit: the interval between two units is rounded up."""
    assert client.rate_limit("k", 3, 0.1).reset_after == 0.033334
    assert client.rate_limit("m", 7, 1).reset_after == 0.142858


def test_the_intervals_between_admissions_are_even(client: ValkeyClient) -> None:
    """With a burst of one, admissions come at the rate and never in pairs."""
    spans: list[tuple[float, float]] = []
    while len(spans) < 10:
        before = _server_time(client)
        answer = client.rate_limit("k", 50, 1, burst=1)
        if answer.allowed:
            spans.append((before, _server_time(client)))
        else:
            time.sleep(answer.retry_after)

    # Each was admitted somewhere in its span, however long this machine made it.
    assert all(later[1] - earlier[0] >= 0.02 for earlier, later in pairwise(spans))

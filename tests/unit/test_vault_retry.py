"""One deadline, and the tries that fit into it."""

from __future__ import annotations

import time

import pytest

from clients._vault.retry import RETRIED_REASONS, Deadline, _pause, retry
from clients.errors import VaultAuthenticationError, VaultConnectionError, VaultError


class _Attempts:
    def __init__(self, *failures: VaultError) -> None:
        self.failures = list(failures)
        self.count = 0
        self.patience: list[float] = []

    def __call__(self, patience: Deadline) -> str:
        self.count += 1
        self.patience.append(patience.remaining())
        if self.failures:
            raise self.failures.pop(0)
        return "done"


def _failure(reason: str = "unreachable", retry_after: float | None = None) -> VaultError:
    return VaultConnectionError("cut", reason=reason, retry_after=retry_after)


@pytest.mark.parametrize("reason", sorted(RETRIED_REASONS))
def test_what_may_pass_is_tried_again(reason: str) -> None:
    """Two failures and a success are a success."""
    attempts = _Attempts(_failure(reason), _failure(reason))

    assert retry(attempts, deadline=Deadline(10), retries=3) == "done"
    assert attempts.count == 3


@pytest.mark.parametrize(
    "failure",
    [
        _failure("sealed"),
        _failure("uninitialised"),
        _failure("not_vault"),
        VaultAuthenticationError("no", reason="permission_denied"),
        VaultError("no", reason="invalid_request"),
    ],
)
def test_what_needs_a_person_is_not_tried_again(failure: VaultError) -> None:
    """The caller knows at once."""
    attempts = _Attempts(failure)
    with pytest.raises(VaultError) as caught:
        retry(attempts, deadline=Deadline(10), retries=3)

    assert caught.value is failure
    assert attempts.count == 1


@pytest.mark.parametrize("retries", [0, 1, 2])
def test_at_most_that_many_further_tries_are_made(retries: int) -> None:
    """The number counts further tries, and the message tells how many there were."""
    attempts = _Attempts(*[_failure() for _ in range(9)])
    with pytest.raises(VaultConnectionError) as caught:
        retry(attempts, deadline=Deadline(10), retries=retries)

    assert attempts.count == retries + 1
    assert ("(after" in str(caught.value)) == (retries > 0)


def test_the_wish_of_the_server_is_honoured() -> None:
    """Retry-After is waited for where the deadline has room for it."""
    attempts = _Attempts(_failure("rate_limited", retry_after=0.6))
    began = time.monotonic()
    retry(attempts, deadline=Deadline(10), retries=1)

    assert time.monotonic() - began >= 0.6


def test_no_pause_begins_that_would_pass_the_deadline() -> None:
    """A Retry-After of an hour fails at once instead of sleeping until the deadline."""
    attempts = _Attempts(_failure("rate_limited", retry_after=3600), _failure())
    began = time.monotonic()
    with pytest.raises(VaultConnectionError):
        retry(attempts, deadline=Deadline(5), retries=3)

    assert attempts.count == 1
    assert time.monotonic() - began < 2


def test_a_pause_as_long_as_the_deadline_is_not_begun() -> None:
    """The try behind it would have no time, and the caller would have waited for nothing."""
    attempts = _Attempts(_failure("rate_limited", retry_after=0.2), _failure())
    with pytest.raises(VaultConnectionError):
        retry(attempts, deadline=Deadline(0.2), retries=3)

    assert attempts.count == 1


def test_each_try_but_the_last_leaves_time_for_the_next() -> None:
    """Half of what is left, and the last one all of it."""
    attempts = _Attempts(_failure(), _failure())
    retry(attempts, deadline=Deadline(100), retries=2)

    assert attempts.patience == [pytest.approx(one, abs=2) for one in (50, 50, 100)]


def test_pauses_grow_and_are_jittered_and_bounded() -> None:
    """Clients that failed together do not come back together."""
    for number in range(12):
        longest = min(2.0, 0.1 * 2**number)
        pauses = [_pause(number, None, 9.0) for _ in range(50)]

        assert all(longest / 2 <= pause <= longest for pause in pauses)
        assert len(set(pauses)) > 10
    assert _pause(5000, None, 9.0) <= 2.0


def test_the_wish_of_the_server_is_taken_for_rounded_down() -> None:
    """A Retry-After of 0 may mean nine tenths of a second, but the deadline stays the limit."""
    assert all(1.5 <= _pause(0, 1.0, 9.0) <= 2.0 for _ in range(50))
    assert _pause(0, 1.0, 1.2) == 1.0


def test_a_part_of_a_deadline_is_never_later_than_the_whole() -> None:
    """A step inside a call cannot outlast the call."""
    whole = Deadline(0.05)

    assert whole.sooner(9.0).remaining() <= 0.05
    assert Deadline(9.0).sooner(0.05).remaining() <= 0.05
    time.sleep(0.06)
    assert whole.remaining() == 0.0

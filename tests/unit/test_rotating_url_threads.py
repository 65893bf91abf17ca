"""What the threads of one client tell each other of a credential that is being rotated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from clients._shared.rotating_url import Candidate
from clients.errors import VaultConnectionError

if TYPE_CHECKING:
    from tests.rotating_url_world import World


def test_a_refusal_that_comes_late_does_not_stand_against_a_login(world: World) -> None:
    """A thread is refused, then another one's login works, and only then the first one tells."""
    world.stored = world.cached = "new"
    slow = world.source.candidates(patient=True)
    assert next(slow).url == "new"
    world.clock.now += 0.01
    world.valid = "new"
    assert world.log_in()

    assert next(slow).url == "new"
    assert world.log_in()
    assert world.tried == ["new"]


def test_whoever_is_refused_between_two_changes_goes_on(world: World) -> None:
    """Both values are refused, for the server changes in between, and another thread gets in."""
    world.stored = world.cached = "new"
    slow, fast = (world.source.candidates(patient=True) for _ in range(2))
    for _ in range(2):
        assert next(slow).url == next(fast).url
    assert next(slow).url == "new"
    world.clock.now += 0.01
    world.source.accepted(next(fast))

    assert next(slow).url == "new"


def test_whoever_waits_takes_what_another_thread_has_found(world: World) -> None:
    """The store was behind and is ahead by now, but what works in between is known."""

    def found_by_another_thread() -> None:
        world.stored = "between"
        assert world.log_in()
        world.stored = world.cached = "new"
        assert world.log_in()
        assert world.tried == ["new", "between"]

    world.valid = "between"
    waiting = world.source.candidates(patient=True)
    assert next(waiting).url == "old"
    world.clock.at.append((world.clock.now + 0.01, found_by_another_thread))

    assert next(waiting).url == "between"


def test_a_value_that_goes_on_working_is_not_newer_than_the_newest(world: World) -> None:
    """A login with it, asked for later, does not keep the new value's from being a rotation."""
    world.stored = world.cached = "new"
    first = world.source.candidates(patient=True)
    assert [next(first).url, next(first).url] == ["new", "old"]
    world.clock.now += 0.1
    assert world.log_in()
    assert world.tried == ["old"]
    world.valid = "new"

    found = next(first)
    world.source.accepted(found)
    world.cached = world.stored = "newer"

    assert world.log_in()
    assert world.tried == ["newer", "new"]


def test_a_value_that_was_refused_is_tried_again_by_one_of_all_that_wait(world: World) -> None:
    """One login tells them all: as many as there are threads would lock the account."""
    world.valid = "unknown"
    assert not world.log_in()
    world.clock.now += 5
    first, others = (world.source.candidates(patient=False) for _ in range(2))

    assert next(first).url == "old"
    assert list(others) == []


def test_a_slow_login_with_the_old_value_is_no_rotation_back(world: World) -> None:
    """A login that was begun before another one, and ends after it, changes nothing."""
    slow = Candidate("old", world.clock.now, world.clock.now)
    world.clock.now += 1
    world.stored = world.valid = "new"
    assert world.log_in()
    generation = world.source.generation()
    world.source.accepted(slow)

    assert world.source.generation() == generation
    assert world.log_in()
    assert world.tried == ["new"]


def test_whoever_is_told_of_a_trouble_hears_of_one_that_has_just_passed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread's question is answered in the midst of this one's look at the trouble."""
    source = world.source
    world.valid = "unknown"
    assert not world.log_in(patient=False)
    world.down = VaultConnectionError("sealed", reason="sealed")
    with pytest.raises(VaultConnectionError, match="sealed"):
        source.current()

    def answered_meanwhile() -> bool:
        monkeypatch.setattr(source, "_may_poll", lambda: True)
        world.down = None
        assert source.current() == "old"
        return False

    monkeypatch.setattr(source, "_may_poll", answered_meanwhile)
    with pytest.raises(VaultConnectionError, match="sealed"):
        source.current()
    assert source.current() == "old"

"""In which order a client tries the values of a credential that may just have been rotated."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from clients import _credentials
from clients._credential_life import CredentialLife
from clients._credentials import Candidate, UrlSource
from clients.errors import (
    ConfigurationError,
    PostgresConfigurationError,
    VaultConnectionError,
    VaultSecretNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Callable


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.at: list[tuple[float, Callable[[], None]]] = []

    def monotonic(self) -> float:
        """Return the time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass, and do what is due by then."""
        self.now += seconds
        for moment, act in list(self.at):
            if moment <= self.now:
                self.at.remove((moment, act))
                act()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    both = SimpleNamespace(monotonic=fake.monotonic, sleep=fake.sleep)
    monkeypatch.setattr(_credentials, "time", both)
    return fake


class World:
    """A store with a cache before it, and a server that takes one password."""

    def __init__(self, clock: Clock, password: str = "old") -> None:
        self.clock = clock
        self.cached = self.stored = self.valid = password
        self.asked = self.asked_afresh = 0
        self.down: Exception | None = None
        self.tried: list[str] = []
        self.source = UrlSource(
            "connection_url", self.url, describe=lambda url: url[0], unusable=ConfigurationError
        )

    def url(self, *, use_cache: bool = True) -> str:
        """Return the cached value, or read the stored one into the cache first."""
        self.asked += 1
        if self.down is not None:
            raise self.down
        if not use_cache:
            self.asked_afresh += 1
            self.cached = self.stored
        return self.cached

    def log_in(self, *, patient: bool = True) -> bool:
        """Connect once, as the clients do; note what was tried."""
        self.tried = []
        for candidate in self.source.candidates(patient=patient):
            self.tried.append(candidate.url)
            if candidate.url == self.valid:
                self.source.accepted(candidate)
                return True
            candidate.refusal = f"no to {candidate.url}"
        return False


@pytest.fixture
def world(clock: Clock) -> World:
    made = World(clock)
    assert made.log_in(patient=False)
    return made


def test_nothing_is_asked_while_logins_work(world: World) -> None:
    """The callable's own value is enough, and nobody looks past its cache."""
    assert world.log_in()

    assert (world.tried, world.asked_afresh) == (["old"], 0)


def test_a_finished_rotation_costs_one_refusal(world: World) -> None:
    """The cache is behind: the old value is refused once, the fresh one works."""
    world.stored = world.valid = "new"

    assert world.log_in()
    assert world.tried == ["old", "new"]
    assert world.log_in()
    assert (world.tried, world.asked_afresh) == (["new"], 1)


def test_a_server_that_is_ahead_is_waited_for_without_a_login(world: World) -> None:
    """The store is asked until it has the new value; the old one is tried once."""
    world.valid = "new"
    world.clock.at.append((world.clock.now + 0.5, lambda: setattr(world, "stored", "new")))

    assert world.log_in()
    assert world.tried == ["old", "new"]
    assert 1 < world.asked_afresh < 10


def test_a_store_that_is_ahead_leaves_the_working_value_in_use(world: World) -> None:
    """What worked so far is tried again, and again without trying the new value each time."""
    world.stored = world.cached = "new"

    assert world.log_in()
    assert world.tried == ["new", "old"]
    assert world.log_in()
    assert world.tried == ["old"]


def test_a_server_that_changes_between_two_refusals_gets_the_new_value_again(world: World) -> None:
    """New refused, then old refused: the server has changed in between."""
    world.stored = world.cached = "new"
    tried = []
    for candidate in world.source.candidates(patient=True):
        tried.append(candidate.url)
        if tried == ["new"]:
            world.valid = "new"
        elif candidate.url == world.valid:
            world.source.accepted(candidate)
            break

    assert tried == ["new", "old", "new"]


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


def test_a_value_that_is_wrong_for_good_is_tried_every_five_seconds(world: World) -> None:
    """No login is repeated before, whoever asks; the error says what happened and when next."""
    world.valid = "unknown"
    assert not world.log_in()
    assert world.tried == ["old"]
    for _ in range(20):
        assert not world.log_in()
        assert world.tried == []
    assert "no to old; the credential was refused" in world.source.refusal()
    assert "every 5 s at most" in world.source.refusal()

    world.clock.now += 5
    assert not world.log_in()
    assert world.tried == ["old"]


def test_a_value_that_was_refused_is_tried_again_by_one_of_all_that_wait(world: World) -> None:
    """One login tells them all: as many as there are threads would lock the account."""
    world.valid = "unknown"
    assert not world.log_in()
    world.clock.now += 5
    first, others = (world.source.candidates(patient=False) for _ in range(2))

    assert next(first).url == "old"
    assert list(others) == []


def test_a_source_that_never_repeats_itself_locks_no_account(clock: Clock) -> None:
    """Each value is another one, and none works: four logins in five seconds, for all calls."""
    tried = []
    numbers = iter(range(10_000))
    source = UrlSource(
        "connection_url", lambda: str(next(numbers)), describe=str, unusable=ConfigurationError
    )
    clock.now += 1
    before = clock.now
    while clock.now - before < 3.5:
        tried += [one.url for one in source.candidates(patient=True)]
        clock.now += 0.1

    assert len(tried) == 4


def test_a_source_of_a_wrong_value_is_asked_rarer_and_rarer(world: World) -> None:
    """Calls that fail for a minute ask once a second in the end, however many they are."""
    world.valid = "unknown"
    assert not world.log_in()
    world.clock.now += 60
    before, asked = world.clock.now, world.asked_afresh
    for _ in range(50):
        assert not world.log_in()

    assert world.asked_afresh - asked <= world.clock.now - before + 2


def test_the_constructor_does_not_wait(clock: Clock) -> None:
    """Without patience a refusal comes out at once, after one question for a fresh value."""
    world = World(clock)
    world.valid = "unknown"
    before = clock.now

    assert not world.log_in(patient=False)
    assert (clock.now, world.tried, world.asked_afresh) == (before, ["old"], 1)


def test_a_mended_store_is_taken_up_at_once(world: World) -> None:
    """That one value was refused a moment ago keeps no other one waiting."""
    world.valid = "unknown"
    assert not world.log_in()
    world.stored = "unknown"

    assert world.log_in()
    assert world.tried == ["unknown"]


def test_a_store_that_cannot_be_asked_leaves_the_working_value_in_use(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Vault is sealed: logins go on with what worked, one warning, one question in 5 seconds."""
    world.down = VaultConnectionError("sealed", reason="sealed")
    world.asked = 0
    for _ in range(3):
        assert world.log_in()
    assert world.asked == 1
    assert [record.message for record in caplog.records] == [
        "connection_url stays as it is for now: sealed"
    ]

    world.down = None
    world.clock.now += 5
    world.cached = world.valid = "new"
    assert world.log_in()
    assert world.tried == ["new"]


def test_a_refusal_while_the_store_cannot_be_asked_tells_both(world: World) -> None:
    """Only what really needs the store fails, and its error says so."""
    world.down = VaultConnectionError("sealed", reason="sealed")
    world.valid = "new"

    assert not world.log_in(patient=False)
    assert "no to old" in world.source.refusal()
    assert world.source.refusal().endswith("no other can be had: sealed")


def test_a_store_that_cannot_be_asked_is_asked_by_time_and_not_by_load(world: World) -> None:
    """Nothing works and Vault is sealed: ten thousand calls in a minute repeat its answer."""
    world.valid = "unknown"
    world.down = VaultConnectionError("sealed", reason="sealed")
    assert not world.log_in(patient=False)
    world.asked = repeated = 0
    for _ in range(10_000):
        world.clock.now += 0.006
        with pytest.raises(VaultConnectionError, match="sealed") as caught:
            world.log_in()
        assert caught.value.reason == "sealed"
        repeated += caught.value is not world.down
    # Each in an exception of its own: a shared one would collect the frames of all calls.
    assert repeated == 10_000 - world.asked
    assert 10 < world.asked < 500

    world.down, world.valid = None, "old"
    world.clock.now += 1.2
    assert world.log_in()
    # The next outage begins anew.
    world.down, world.valid, world.asked = VaultConnectionError("sealed again"), "unknown", 0
    assert not world.log_in(patient=False)
    world.clock.now += 0.001
    with pytest.raises(VaultConnectionError, match="again"):
        world.log_in()
    assert world.asked == 3


def test_a_secret_that_is_gone_is_no_outage(world: World) -> None:
    """Whoever deletes the secret means it: the value that worked is not used behind his back."""
    world.down = VaultSecretNotFoundError("deleted", reason="deleted")

    with pytest.raises(VaultSecretNotFoundError):
        world.log_in()


def test_the_first_login_has_nothing_to_fall_back_on(clock: Clock) -> None:
    """Before any URL has worked, the source's own error comes out."""
    world = World(clock)
    world.down = VaultConnectionError("sealed", reason="sealed")

    with pytest.raises(VaultConnectionError, match="sealed"):
        world.log_in(patient=False)


def test_a_rotation_is_one_line_and_no_password(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Once for each change, at INFO."""
    caplog.set_level(logging.INFO)
    world.stored = world.valid = "new"
    for _ in range(3):
        assert world.log_in()

    assert [record.message for record in caplog.records] == [
        "connection_url was rotated: new connections go to n"
    ]


def test_connections_are_given_up_when_more_than_the_password_changes(clock: Clock) -> None:
    """Another user or server: a new generation; another password of the same user: not."""
    world = World(clock, "ada:1")
    assert world.log_in(patient=False)
    first = world.source.generation()
    world.stored = world.valid = "ada:2"
    assert world.log_in()
    assert world.source.generation() == first

    world.stored = world.valid = "bob:1"
    assert world.log_in()
    assert world.source.generation() == first + 1


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


def test_a_text_has_nothing_fresh_to_give(clock: Clock) -> None:
    """A URL that is no callable is tried once, and not waited for."""
    source = UrlSource("admin_url", "text", describe=str, unusable=ConfigurationError)
    before = clock.now

    assert [one.url for one in source.candidates(patient=True)] == ["text"]
    assert clock.now == before


def test_a_callable_without_use_cache_is_asked_as_it_is() -> None:
    """``use_cache`` is for callables that know it."""
    answers = iter(["one", "two"])
    source = UrlSource(
        "connection_url", lambda: next(answers), describe=str, unusable=ConfigurationError
    )

    assert [one.url for one in source.candidates(patient=False)] == ["one", "two"]


def test_a_callable_that_returns_none_is_refused() -> None:
    """None is no URL; the error is the client's own kind and names the setting."""
    source = UrlSource(
        "connection_url", lambda: None, describe=str, unusable=PostgresConfigurationError
    )

    with pytest.raises(PostgresConfigurationError, match="connection_url returned None"):
        next(source.candidates(patient=False))


def test_no_credential_shows() -> None:
    """Candidates and lives can be logged."""
    assert "secret" not in repr(Candidate("redis://:secret@h", 0.0, 0.0))
    assert repr(CredentialLife(1.0)) == "CredentialLife(age=1.0, remaining=None)"


def test_the_age_begins_with_the_value(world: World) -> None:
    """A rotated credential is young again; nobody knows its end."""
    world.clock.now += 100
    assert world.source.life() == CredentialLife(100.0)
    world.stored = world.valid = "new"
    assert world.log_in()

    assert world.source.life() == CredentialLife(0.0)

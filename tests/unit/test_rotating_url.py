"""In which order a client tries the values of a credential that may just have been rotated."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from clients._shared.credential_life import CredentialLife
from clients._shared.rotating_url import Candidate, UrlSource, is_past_cache
from clients.errors import (
    ConfigurationError,
    PostgresConfigurationError,
    VaultConnectionError,
    VaultSecretNotFoundError,
)
from tests.rotating_url_world import World

if TYPE_CHECKING:
    from tests.rotating_url_world import Clock


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


@pytest.mark.parametrize("valid", ["old", "unknown"])
def test_a_trouble_that_is_kept_keeps_nothing_of_its_caller(world: World, valid: str) -> None:
    """Frames hold the caller's objects, and the source lives as long as the client."""
    world.valid = "unknown"
    assert not world.log_in(patient=False)
    world.valid = valid
    world.down = VaultConnectionError("sealed", reason="sealed")
    world.down.__cause__ = OSError("refused")
    world.clock.now += 6
    with pytest.raises(VaultConnectionError, match="sealed"):
        world.log_in()

    kept = world.source.trouble
    assert kept is not None
    assert (str(kept), kept.__traceback__, kept.__cause__) == ("sealed", None, None)


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


def test_a_store_that_is_back_after_an_hour_is_heard_within_two_seconds(world: World) -> None:
    """Questions come rarer and rarer, but never rarer than once a second."""
    world.valid = "unknown"
    world.down = VaultConnectionError("sealed", reason="sealed")
    assert not world.log_in(patient=False)
    for _ in range(2):
        world.clock.now += 1800
        with pytest.raises(VaultConnectionError, match="sealed"):
            world.log_in()

    world.down, world.valid = None, "old"
    world.clock.now += 1.2
    assert world.log_in()


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


def test_only_the_call_after_a_refusal_reads_past_caches(clock: Clock) -> None:
    """The callable's context says so in that call alone, and never that of its caller."""
    read: list[bool] = []

    def url() -> str:
        read.append(is_past_cache())
        return "one"

    source = UrlSource("url", url, describe=str, unusable=ConfigurationError)
    for _ in source.candidates(patient=False):
        assert not is_past_cache()

    assert read == [False, True]
    assert not is_past_cache()


def test_a_callable_that_is_interrupted_leaves_the_callers_context_as_it_was(clock: Clock) -> None:
    """A later read of the same thread uses its cache."""

    def url() -> str:
        if is_past_cache():
            raise KeyboardInterrupt
        return "one"

    source = UrlSource("url", url, describe=str, unusable=ConfigurationError)
    with pytest.raises(KeyboardInterrupt):
        list(source.candidates(patient=False))

    assert not is_past_cache()


def test_a_callable_that_needs_the_client_it_serves_is_refused(clock: Clock) -> None:
    """A new connection that needs a new connection would need one without end."""

    def url() -> str:
        return next(source.candidates(patient=False)).url

    source = UrlSource("url", url, describe=str, unusable=ConfigurationError)

    with pytest.raises(ConfigurationError, match="without that client"):
        next(source.candidates(patient=False))

"""Bad arguments get a clear error, and nothing is sent."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from clients.errors import ValkeyConfigurationError
from clients.valkey_client import ValkeyClient, ValkeyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from utils.local_stack import StackEndpoints


@pytest.fixture
def client(stack: StackEndpoints) -> Iterator[ValkeyClient]:
    """A client whose keys no other test uses."""
    with ValkeyClient(stack.valkey_url, key_prefix=f"test-{uuid4().hex}:") as opened:
        yield opened


BAD_KEYS = ["", None, 5, b"bytes", "\ud800", ["a"]]


@pytest.mark.parametrize("key", BAD_KEYS)
def test_bad_keys_are_refused(client: ValkeyClient, key: str) -> None:
    """Every method refuses a key that is no text."""
    calls: list[Callable[[], object]] = [
        lambda: client.get(key),
        lambda: client.set(key, "x"),
        lambda: client.delete(key),
        lambda: client.incr(key),
        lambda: client.expire(key, 1),
        lambda: client.ttl(key),
        lambda: client.exists(key),
        lambda: client.get_json(key),
        lambda: client.set_json(key, 1),
        lambda: client.get_many([key]),
        lambda: client.delete_many([key]),
        lambda: client.rate_limit(key, 1, 1),
    ]
    for call in calls:
        with pytest.raises(ValkeyConfigurationError, match=r"key"):
            call()


@pytest.mark.parametrize("seconds", [0, -1, True, False, 1.5, "5", 10**18])
def test_bad_expiries_are_refused_and_never_mean_forever(
    client: ValkeyClient, seconds: int
) -> None:
    """An expiry is None or a whole number from 1 up, and nothing is written otherwise."""
    calls: list[Callable[[], object]] = [
        lambda: client.set("a", "x", seconds),
        lambda: client.set_json("a", 1, seconds),
        lambda: client.set_many({"a": "x"}, seconds),
        lambda: client.incr("a", 1, seconds),
        lambda: client.expire("a", seconds),
        lambda: client.get("a", seconds),
        lambda: client.get_json("a", seconds),
    ]
    for call in calls:
        with pytest.raises(ValkeyConfigurationError, match=r"expiry of key"):
            call()

    assert not client.exists("a")


def test_numbers_too_long_to_print_are_refused_like_others(client: ValkeyClient) -> None:
    """Python does not print such numbers; the refusal is ours all the same."""
    huge = 10**5000
    calls: list[Callable[[], object]] = [
        lambda: client.set("a", "x", huge),
        lambda: client.expire("a", -huge),
        lambda: client.incr("a", huge),
        lambda: client.rate_limit("a", huge, 1),
        lambda: client.rate_limit("a", 1, huge),
        lambda: client.rate_limit("a", 1, 1, burst=huge),
        lambda: client.rate_limit("a", 1, 1, cost=-huge),
        lambda: client.cached("a", 1, lambda: 1, lock_seconds=huge),
    ]
    for call in calls:
        with pytest.raises(ValkeyConfigurationError):
            call()

    assert not client.exists("a")


@pytest.mark.parametrize("value", [None, 5, 1.5, True, b"x", b"\xff", {}, ["x"], "\udfff"])
def test_values_that_are_no_text_are_refused(client: ValkeyClient, value: str) -> None:
    """Strings in, strings out; the message points to set_json."""
    with pytest.raises(ValkeyConfigurationError, match=r"value for key"):
        client.set("a", value)
    with pytest.raises(ValkeyConfigurationError, match=r"value for key"):
        client.set_many({"a": value})

    assert not client.exists("a")


class Plan(str, Enum):  # noqa: UP042 - older code's way, whose str() is "Plan.GOLD"
    """A text that prints as something else."""

    GOLD = "gold"


def test_a_text_that_prints_as_another_is_stored_as_it_is(client: ValkeyClient) -> None:
    """Whatever way it goes to the server; so is a key."""
    client.set("a", Plan.GOLD)
    client.set_many({"b": Plan.GOLD})
    client.set_many({"c": Plan.GOLD, Plan.GOLD: "d"}, expire_seconds=60)
    client.pipeline().set("e", Plan.GOLD).execute()

    keys = ["a", "b", "c", "e", "gold"]
    assert list(client.get_many(keys).values()) == ["gold", "gold", "gold", "gold", "d"]


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), {"a": {1, 2}}, object(), b"x", {(1, 2): 3}, "\ud800"]
)
def test_values_that_are_no_json_are_refused(client: ValkeyClient, value: object) -> None:
    """Nothing is written, and what was there stays."""
    client.set_json("j", "before")

    with pytest.raises(ValkeyConfigurationError, match=r"value for key"):
        client.set_json("j", value)

    assert client.get_json("j") == "before"


def test_a_number_too_long_for_json_is_refused_by_its_reason(client: ValkeyClient) -> None:
    """Python neither writes nor reads such numbers."""
    with pytest.raises(ValkeyConfigurationError, match=r"not JSON: it holds a number of thousands"):
        client.set_json("j", [10**5000])


def test_a_producer_that_cannot_be_called_is_refused(client: ValkeyClient) -> None:
    """Before anything is sent, as every other unusable argument."""
    with pytest.raises(ValkeyConfigurationError, match=r"'\S*j' is str: it must be a callable"):
        client.cached("j", 60, "value")  # type: ignore[arg-type]  # what is tried here


def test_a_value_that_contains_itself_is_refused(client: ValkeyClient) -> None:
    """A cycle is named as such."""
    cycle: list[object] = []
    cycle.append(cycle)

    with pytest.raises(ValkeyConfigurationError, match=r"contains itself"):
        client.set_json("j", cycle)


@pytest.mark.parametrize("text", ["{private", "", "NaN", "[Infinity]", "'private'"])
def test_corrupt_json_is_not_absence(client: ValkeyClient, text: str) -> None:
    """A value that is no JSON raises with the key and without the value."""
    client.set("j", text)

    with pytest.raises(ValkeyError, match=r"j' is not JSON") as caught:
        client.get_json("j")

    assert "private" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("amount", [None, 1.5, True, "1", 2**63])
def test_bad_amounts_are_refused(client: ValkeyClient, amount: int) -> None:
    """An amount is a whole number that fits into 64 bits."""
    with pytest.raises(ValkeyConfigurationError, match=r"amount for key"):
        client.incr("n", amount)

    assert not client.exists("n")


def test_an_overflow_keeps_the_counter(client: ValkeyClient) -> None:
    """A counter that would overflow raises and stays as it is."""
    client.incr("n", 2**63 - 1)

    with pytest.raises(ValkeyError, match=r"overflow"):
        client.incr("n")

    assert client.get("n") == str(2**63 - 1)


@pytest.mark.parametrize("keys", ["single", b"single", None, 5])
def test_many_takes_a_list_of_keys(client: ValkeyClient, keys: list[str]) -> None:
    """A single text in place of a list is a mistake, and not a list of its letters."""
    with pytest.raises(ValkeyConfigurationError, match=r"list of keys"):
        client.get_many(keys)
    with pytest.raises(ValkeyConfigurationError, match=r"list of keys"):
        client.delete_many(keys)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("connect_timeout", 0),
        ("connect_timeout", None),
        ("socket_timeout", -1),
        ("socket_timeout", float("inf")),
        ("socket_timeout", 1e10),
        ("connect_timeout", 10**20),
        ("connect_timeout", float("nan")),
        ("max_connections", 0),
        ("max_connections", 1.5),
        ("max_connections", True),
        ("key_prefix", None),
        ("key_prefix", "\ud800"),
    ],
)
def test_bad_settings_are_refused(stack: StackEndpoints, name: str, value: object) -> None:
    """Each setting is checked before anything is opened, and named."""
    settings: dict[str, object] = {name: value}

    with pytest.raises(ValkeyConfigurationError, match=name):
        ValkeyClient(stack.valkey_url, **settings)  # type: ignore[arg-type]

"""The client's everyday operations on a real server."""

from __future__ import annotations

import threading
import traceback
from enum import Enum
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import redis

from clients.valkey_client import ValkeyClient, ValkeyError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from utils.local_stack import StackEndpoints


class Number(int, Enum):
    """A number whose text is its name."""

    FIVE = 5


@pytest.fixture
def client(stack: StackEndpoints) -> Iterator[ValkeyClient]:
    """A client whose keys no other test uses."""
    with ValkeyClient(stack.valkey_url, key_prefix=f"test-{uuid4().hex}:") as opened:
        yield opened


def test_set_and_get_return_text(client: ValkeyClient) -> None:
    """A value comes back as it was set, whatever its characters."""
    assert client.set("a", "grüße\r\n\0\N{SNOWMAN}") is True

    assert client.get("a") == "grüße\r\n\0\N{SNOWMAN}"


def test_absent_is_none(client: ValkeyClient) -> None:
    """A key that is not there gives None, and an empty value does not."""
    client.set("empty", "")

    assert client.get("missing") is None
    assert client.get("empty") == ""
    assert client.get_json("missing") is None


def test_expiry_is_set_with_the_value(client: ValkeyClient) -> None:
    """A value with an expiry has it at once; one without never expires."""
    client.set("a", "x", expire_seconds=100)
    client.set("b", "x")

    assert 95 <= client.ttl("a") <= 100
    assert client.ttl("b") == -1
    assert client.ttl("missing") == -2


def test_get_slides_the_expiry(client: ValkeyClient) -> None:
    """Reading with expire_seconds renews the key in the same step, and only a key that is there."""
    client.set("a", "x", 10)
    client.set_json("j", [1], 10)

    assert client.get("a", expire_seconds=500) == "x"
    assert client.get_json("j", expire_seconds=500) == [1]
    assert client.get("missing", expire_seconds=500) is None

    assert client.ttl("a") > 400
    assert client.ttl("j") > 400
    assert not client.exists("missing")


def test_only_if_absent_keeps_what_is_there(client: ValkeyClient) -> None:
    """The first set wins, and says so."""
    assert client.set("a", "first", 50, only_if_absent=True) is True
    assert client.set("a", "second", only_if_absent=True) is False
    assert client.set_json("a", "third", only_if_absent=True) is False

    assert client.get("a") == "first"
    assert client.ttl("a") > 0


def test_delete_and_exists_tell_what_was_there(client: ValkeyClient) -> None:
    """Both return a bool."""
    client.set("a", "x")

    assert client.exists("a") is True
    assert client.delete("a") is True
    assert client.delete("a") is False
    assert client.exists("a") is False


def test_incr_counts_from_nothing(client: ValkeyClient) -> None:
    """A counter starts at 0, and takes any whole amount."""
    assert [client.incr("n"), client.incr("n"), client.incr("n", 10), client.incr("n", -2)] == [
        1,
        2,
        12,
        10,
    ]
    assert client.ttl("n") == -1


def test_incr_starts_its_window_once(client: ValkeyClient) -> None:
    """The expiry comes with the first increment, and a later one does not extend it."""
    client.incr("n", expire_seconds=500)
    client.incr("n", expire_seconds=9000)

    assert client.get("n") == "2"
    assert 490 <= client.ttl("n") <= 500


def test_incr_repairs_a_counter_without_expiry(client: ValkeyClient) -> None:
    """A counter that would never expire gets its window at the next increment."""
    client.set("n", "41")

    assert client.incr("n", expire_seconds=60) == 42
    assert 0 < client.ttl("n") <= 60


@pytest.mark.parametrize("amount", [2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63)])
def test_a_large_counter_is_exact_with_and_without_expiry(
    client: ValkeyClient, amount: int
) -> None:
    """What comes back is what the server holds, beyond the numbers that a script can hold."""
    assert client.incr("plain", amount) == amount
    assert client.incr("window", amount, 60) == amount
    assert client.get("window") == str(amount)
    assert 0 < client.ttl("window") <= 60


def test_whole_numbers_of_other_classes_count_as_ints(client: ValkeyClient) -> None:
    """A member of an enumeration of whole numbers is a number like any other."""
    assert client.incr("n", Number.FIVE) == 5
    assert client.incr("m", Number.FIVE, Number.FIVE) == 5
    assert client.expire("n", Number.FIVE) is True
    assert client.rate_limit("r", Number.FIVE, Number.FIVE, cost=Number.FIVE).remaining == 0
    client.set_many({"a": "x"}, Number.FIVE)
    client.set("b", "x", Number.FIVE)

    assert {client.ttl(key) for key in ("n", "m", "a", "b")} <= {4, 5}


def test_a_failed_incr_leaves_the_key_alone(client: ValkeyClient) -> None:
    """An increment of text fails, and does not make the text expire."""
    client.set("text", "hello")

    with pytest.raises(ValkeyError, match="not an integer") as caught:
        client.incr("text", expire_seconds=60)

    assert "text" in str(caught.value)
    assert client.ttl("text") == -1
    assert not caught.value.maybe_applied


def test_expire_tells_whether_the_key_is_there(client: ValkeyClient) -> None:
    """It sets the expiry of an existing key only."""
    client.set("a", "x")

    assert client.expire("a", 100) is True
    assert client.ttl("a") > 90
    assert client.expire("missing", 100) is False


def test_json_comes_back_equal(client: ValkeyClient) -> None:
    """Every JSON type survives, null included."""
    value = {"text": "ü", "list": [1, 2.5, None, True], "nested": {"a": {}}}

    assert client.set_json("j", value, 60) is True
    assert client.get_json("j") == value
    client.set_json("null", None)
    assert client.exists("null")
    assert client.get_json("null") is None


def test_many_keys_take_one_step_each(client: ValkeyClient) -> None:
    """Several keys are set, read and deleted together."""
    client.set_many({"a": "1", "b": "2"})
    client.set_many({"c": "3", "d": "4"}, expire_seconds=60)

    assert client.get_many(["a", "c", "missing"]) == {"a": "1", "c": "3", "missing": None}
    assert client.ttl("a") == -1
    assert 0 < client.ttl("d") <= 60
    assert client.delete_many(["a", "b", "missing"]) == 2
    assert client.get_many(k for k in ["a"]) == {"a": None}


def test_another_type_among_many_is_not_absence(client: ValkeyClient) -> None:
    """One key of another type fails the whole, by its name, as a single get does."""
    client.set("a", "1")
    client.client.rpush(client.key_prefix + "list", "x")

    with pytest.raises(ValkeyError, match=r":list'.*WRONGTYPE.*another type") as caught:
        client.get_many(["a", "b", "c", "d", "list"])

    assert caught.value.code == "WRONGTYPE"


@pytest.mark.parametrize("commands", [["+@read"], ["+mget", "+exists", "+get"], ["+mget"]])
def test_a_role_that_may_only_read_gets_many(
    client: ValkeyClient, stack: StackEndpoints, commands: list[str]
) -> None:
    """No script is needed, and no right to write."""
    admin, user = client.client, f"u{uuid4().hex}"
    admin.acl_setuser(
        user,
        enabled=True,
        passwords=["+pw"],
        keys=[f"%R~{client.key_prefix}*"],
        commands=["+ping", *commands],
    )
    client.set_many({"a": "1", "b": ""})
    try:
        url = f"redis://{user}:pw@{stack.valkey_url.rpartition('@')[2]}"
        with ValkeyClient(url, key_prefix=client.key_prefix) as reader:
            assert reader.get_many(["b", "x", "a", "x"]) == {"b": "", "x": None, "a": "1"}
    finally:
        admin.acl_deluser(user)


def test_a_key_that_comes_and_goes_is_no_other_type(client: ValkeyClient) -> None:
    """Writers in between make nobody believe that a key holds something else."""
    stop = threading.Event()

    def flicker() -> None:
        while not stop.is_set():
            client.set("c", "x")
            client.delete("c")

    thread = threading.Thread(target=flicker)
    thread.start()
    try:
        found = {client.get_many(["a", "b", "c"])["c"] for _ in range(500)}
    finally:
        stop.set()
        thread.join()

    assert found <= {"x", None}


def test_bytes_through_the_plain_driver_are_a_typed_error(client: ValkeyClient) -> None:
    """It is ours and the driver's, the next call works, and the bytes can be had."""
    driver: Any = client.client
    key = client.key_prefix + "raw"
    driver.set(key, b"\xff\xfe-private")
    for kind in (ValkeyError, redis.exceptions.DataError):
        with pytest.raises(kind, match="not UTF-8") as caught:
            driver.get(key)
        assert "private" not in "".join(traceback.format_exception(caught.value))
        assert caught.value.__context__ is None

    assert driver.exists(key) == 1
    assert driver.execute_command("GET", key, NEVER_DECODE=True) == b"\xff\xfe-private"


def test_nothing_is_asked_for_no_keys(client: ValkeyClient) -> None:
    """Empty collections are no error."""
    client.set_many({})

    assert client.get_many([]) == {}
    assert client.delete_many([]) == 0


def test_the_prefix_stands_before_every_key(stack: StackEndpoints) -> None:
    """Two prefixes are two name spaces, also in messages."""
    name = uuid4().hex
    with (
        ValkeyClient(stack.valkey_url, key_prefix=f"{name}:a:") as a,
        ValkeyClient(stack.valkey_url) as bare,
    ):
        a.set("k", "x", 60)
        a.set_many({"m": "y"}, 60)

        assert bare.get(f"{name}:a:k") == "x"
        assert bare.get(f"{name}:a:m") == "y"
        with pytest.raises(ValkeyError, match=f"{name}:a:k"):
            a.incr("k")


def test_health_check_and_version(client: ValkeyClient) -> None:
    """A healthy server answers True, and says what it is."""
    assert client.health_check() is True
    assert client.server_version().startswith("valkey ")


def test_use_after_close_is_an_error(stack: StackEndpoints) -> None:
    """A closed client stays closed, and closing twice does no harm."""
    client = ValkeyClient(stack.valkey_url)
    client.close()
    client.close()

    for use in (lambda: client.get("a"), client.health_check, client.server_version):
        with pytest.raises(ValkeyError, match=r"is closed: make a new one"):
            use()


def test_wrong_type_names_the_key(client: ValkeyClient, stack: StackEndpoints) -> None:
    """A value of another type gives the server's word and the key."""
    client.set_many({"a": "1"})
    client.client.rpush(client.key_prefix + "list", "x")

    with pytest.raises(ValkeyError, match=r"list.*WRONGTYPE.*another type") as caught:
        client.get("list")

    assert caught.value.code == "WRONGTYPE"


def test_bytes_that_are_not_text_name_the_key(client: ValkeyClient) -> None:
    """A value that is not UTF-8 is a clear error, and the next call works."""
    client.client.set(client.key_prefix + "raw", b"\xff\xfe-private")

    with pytest.raises(ValkeyError, match=r"raw.*not UTF-8") as caught:
        client.get("raw")

    assert "private" not in repr(caught.value.__cause__)
    client.set("a", "x")
    assert client.get("a") == "x"


def test_the_plain_driver_has_the_same_settings(client: ValkeyClient) -> None:
    """client.client reaches the same database as text, without hidden retries."""
    client.set("a", "x")

    assert client.client.get(client.key_prefix + "a") == "x"
    assert client.client is client.client
    retry = client.client.get_retry()
    assert retry is not None
    assert retry.get_retries() == 0

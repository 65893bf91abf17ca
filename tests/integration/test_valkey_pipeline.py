"""A pipeline is one round trip, and its results are the client's own."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from clients.errors import ValkeyConfigurationError
from clients.valkey_client import ValkeyClient, ValkeyError
from tests.valkey_helpers import client_behind_proxy
from utils._stack.valkey import ValkeyServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from utils.local_stack import StackEndpoints


@pytest.fixture
def client(stack: StackEndpoints) -> Iterator[ValkeyClient]:
    """A client whose keys no other test uses."""
    with ValkeyClient(stack.valkey_url, key_prefix=f"test-{uuid4().hex}:") as opened:
        yield opened


def test_results_come_in_order_as_the_client_s_own(client: ValkeyClient) -> None:
    """Each command gives what its method on the client gives."""
    pipe = client.pipeline()
    pipe.set("a", "x").set("a", "y", only_if_absent=True).get("a").exists("a").ttl("a")
    pipe.expire("a", 50).incr("n", 5, 60).set_json("j", [1], 60).get_json("j").get("missing")
    pipe.delete("a").get("n", 30)

    assert len(pipe) == 12
    assert pipe.execute() == [
        True, False, "x", True, -1, True, 5, True, [1], None, True, "5",
    ]  # fmt: skip
    assert len(pipe) == 0
    assert pipe.execute() == []


def test_a_block_sends_what_is_queued(client: ValkeyClient) -> None:
    """Leaving the block normally sends; an exception discards."""
    with client.pipeline() as pipe:
        pipe.set("a", "x")
    with pytest.raises(ValkeyConfigurationError), client.pipeline() as pipe:
        pipe.set("b", "x").set("", "x")

    assert client.get_many(["a", "b"]) == {"a": "x", "b": None}


def test_one_failure_names_its_key_and_spares_the_others(client: ValkeyClient) -> None:
    """The commands beside a failed one are executed, and the message says so."""
    client.set("text", "hello")
    pipe = client.pipeline().incr("before").incr("text").incr("after")

    with pytest.raises(ValkeyError, match=r"text'.*not an integer.*1 of 3 commands.*executed"):
        pipe.execute()

    assert client.get_many(["before", "after"]) == {"before": "1", "after": "1"}


def test_bytes_that_are_not_text_fail_their_own_command(client: ValkeyClient) -> None:
    """The message names the key that holds them, and says that the others were executed."""
    client.client.set(client.key_prefix + "raw", b"\xff\xfe")
    pipe = client.pipeline().incr("before").get("raw").incr("after").get("raw")

    with pytest.raises(ValkeyError, match=r"GET .*raw'.*not UTF-8.*2 of 4.*were executed"):
        pipe.execute()

    assert client.get_many(["before", "after"]) == {"before": "1", "after": "1"}


def test_a_pipeline_that_fails_as_a_whole_says_so(client: ValkeyClient) -> None:
    """There are no others to speak of when every command failed."""
    client.set("text", "hello")

    with pytest.raises(ValkeyError, match=r"all 2 commands of the pipeline failed$"):
        client.pipeline().incr("text").incr("text").execute()


def test_bad_arguments_are_refused_when_they_are_queued(client: ValkeyClient) -> None:
    """Nothing is sent for a pipeline that could not be right."""
    pipe = client.pipeline().set("a", "x")

    with pytest.raises(ValkeyConfigurationError):
        pipe.set("b", "x", 0)
    assert len(pipe) == 1


def test_a_thousand_commands_work(client: ValkeyClient) -> None:
    """A long pipeline with large values comes back complete."""
    values = {f"k{number}": str(number) * 500 for number in range(1000)}
    pipe = client.pipeline()
    for key, value in values.items():
        pipe.set(key, value)
    pipe.execute()
    for key in values:
        pipe.get(key)

    assert pipe.execute() == list(values.values())


def test_a_closed_client_s_pipeline_is_closed(stack: StackEndpoints) -> None:
    """Use after close is an error here, too."""
    with ValkeyClient(stack.valkey_url) as client:
        pipe = client.pipeline().get("a")

    with pytest.raises(ValkeyError, match="is closed"):
        pipe.execute()


def test_each_building_block_is_one_round_trip() -> None:
    """Once the server knows the scripts, every operation asks once."""
    with ValkeyServer() as server, client_behind_proxy(server) as (client, proxy):
        calls: list[Callable[[], object]] = [
            lambda: client.get("a", 60),
            lambda: client.set("a", "x", 60, only_if_absent=True),
            lambda: client.incr("n", 1, 60),
            lambda: client.rate_limit("r", 10, 1),
            lambda: client.get_many(["a", "n"]),
            lambda: client.set_many({"a": "x", "b": "y"}, 60),
            lambda: client.delete_many(["a", "b"]),
            lambda: client.pipeline().get("a").incr("n").incr("m", 1, 5).execute(),
        ]
        for call in calls:
            call()
        for call in calls:
            proxy.reset_counts()
            call()
            assert (proxy.round_trips, proxy.connections) == (1, 0)


def test_a_new_connection_is_ready_in_three_round_trips() -> None:
    """Opening, login with a database and the first command take at most three."""
    with ValkeyServer() as server, client_behind_proxy(server) as (client, proxy):
        proxy.cut()
        proxy.reset_counts()

        assert client.set("a", "x") is True
        # The TCP handshake is the one more that a proxy does not see.
        assert proxy.connections == 1
        assert proxy.round_trips + 1 <= 3

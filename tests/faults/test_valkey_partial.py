"""Whether a change may have been applied is told truly, wherever a connection breaks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from clients.errors import ValkeyConnectionError, ValkeyError
from clients.valkey_client import ValkeyClient
from tests.valkey_helpers import client_behind_proxy
from utils._stack.valkey import ValkeyServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    """A server for the tests here."""
    with ValkeyServer() as started:
        yield started


CHANGES: dict[str, Callable[[ValkeyClient], Any]] = {
    "incr": lambda c: c.incr("n"),
    "incr with expiry": lambda c: c.incr("n", 1, 60),
    "pipeline": lambda c: c.pipeline().get("a").incr("n").get("a").execute(),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("direction", ["cut_up", "cut_down"])
def test_what_was_applied_is_never_told_as_not_applied(
    server: ValkeyServer, name: str, direction: str
) -> None:
    """The connection breaks after each byte of the request and of the reply in turn."""
    with (
        client_behind_proxy(server, max_connections=1) as (client, proxy),
        ValkeyClient(server.url) as observer,
    ):
        CHANGES[name](client)
        applied = lost = 0
        for cut in range(400):
            observer.set("n", "0")
            client.get("a")  # on a connection that is ready, and not in its handshake
            setattr(proxy, direction, cut)
            try:
                CHANGES[name](client)
            except ValkeyConnectionError as error:
                failure: ValkeyConnectionError | None = error
            else:
                failure = None
            setattr(proxy, direction, None)
            if failure is not None:
                # What reached the server is executed before it sees that the connection is gone.
                wait_until_alone(observer)
            count = int(observer.get("n") or "0")

            assert count <= 1
            if failure is None:
                assert count == 1
                break
            assert failure.maybe_applied or count == 0
            assert failure.reason == "lost"
            applied += count
            lost += 1

        assert 0 < applied <= lost
        # A whole request's answer is lost; the answer to a part of one never comes.
        assert (lost > applied) is (direction == "cut_up")
        assert observer.get("n") == "1"


def wait_until_alone(observer: ValkeyClient) -> None:
    """Wait until the server has no connection but the observer's own two."""
    plain = observer.client
    ends_at = time.monotonic() + 30
    while len(plain.client_list()) > 2:
        assert time.monotonic() < ends_at, "the cut connection is still open"


@pytest.mark.parametrize("size", [2**22, 2**25])
def test_a_value_above_the_server_s_limit_is_told_as_not_executed(
    server: ValkeyServer, size: int
) -> None:
    """The server refuses it before it has all of it, and closes: its words, and nothing applied."""
    with ValkeyClient(server.url) as client:
        client.client.config_set("proto-max-bulk-len", 2**20)
        try:
            big = "x" * size
            client.set("n", "0")
            for call in (
                lambda: client.set("big", big),
                lambda: client.set_many({"big": big}, 60),
                lambda: client.pipeline().get("n").set("big", big).execute(),
            ):
                with pytest.raises(ValkeyError, match=r"only in part.*proto-max-bulk-len") as one:
                    call()
                assert not one.value.maybe_applied
            with pytest.raises(ValkeyError, match="may have been applied") as both:
                client.pipeline().incr("n").set("big", big).execute()

            assert both.value.maybe_applied
            assert client.get("n") == "1"
            assert not client.exists("big")
        finally:
            client.client.config_set("proto-max-bulk-len", 2**29)


def test_a_request_that_does_not_fit_into_memory_sends_nothing(
    server: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A local refusal is told as one: no connection is lost, and nothing may have been applied."""

    def refuse(_words: object) -> bytes:
        raise MemoryError

    with ValkeyClient(server.url) as client:
        before = client.stats()["connects"]
        monkeypatch.setattr("clients._valkey.pool.pack", refuse)
        with pytest.raises(ValkeyError, match=r"SET 'k'.*MemoryError") as caught:
            client.set("k", "x")
        monkeypatch.undo()

        assert not caught.value.maybe_applied
        assert client.get("k") is None
        assert client.stats()["connects"] == before

"""A Valkey user's password is rotated under a running client, or is wrong for good."""

from __future__ import annotations

import secrets
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import redis

from clients.errors import ValkeyConfigurationError, ValkeyConnectionError
from clients.valkey_client import ValkeyClient, ValkeyError
from tests.valkey_helpers import at_once
from utils._stack.valkey import ValkeyServer

if TYPE_CHECKING:
    from collections.abc import Iterator


class Store:
    """Hands out the URL of the user ``app``: from a cache that may be old, or afresh.

    Args:
        server: Whose user it is.
    """

    def __init__(self, server: ValkeyServer) -> None:
        self.server = server
        self.admin: Any = redis.Redis.from_url(server.url, decode_responses=True)
        self.cached = self.stored = ""
        self.asked_afresh = 0
        self.pause = 0.0
        self._lock = threading.Lock()
        self.rotate()
        self.cached = self.stored

    def url(self, *, use_cache: bool = True) -> str:
        """Return the URL."""
        if not use_cache:
            with self._lock:
                self.asked_afresh += 1
            time.sleep(self.pause)
            self.cached = self.stored
        return f"redis://app:{self.cached}@127.0.0.1:{self.server.port}/0"

    def rotate(self, *, store: bool = True) -> str:
        """Change the password on the server, and in the store if told so; end every connection."""
        password = secrets.token_urlsafe(9)
        self.admin.acl_setuser(
            "app", enabled=True, reset_passwords=True, passwords=[f"+{password}"],
            keys="*", commands=["+@all"],
        )  # fmt: skip
        self.admin.execute_command("CLIENT", "KILL", "USER", "app")
        if store:
            self.stored = password
        return password

    def refused_logins(self) -> int:
        """Count the refused logins in the server's own log."""
        return sum(int(one["count"]) for one in self.admin.acl_log() if one["reason"] == "auth")


@pytest.fixture(scope="module")
def rotated_server() -> Iterator[ValkeyServer]:
    """A server whose user's password changes."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def store(rotated_server: ValkeyServer) -> Iterator[Store]:
    """A store of the password, and the server's log of refusals empty."""
    made = Store(rotated_server)
    made.admin.execute_command("ACL", "LOG", "RESET")
    yield made
    made.admin.close()


def test_a_rotation_costs_no_call_and_one_question(store: Store) -> None:
    """Eight threads that are refused the old password ask once, and none of their calls fails."""
    store.pause = 0.2
    with ValkeyClient(store.url) as client:
        for turn in range(3):
            store.rotate()
            results = at_once(8, lambda: client.set("a", "x"))

            assert results == [True] * 8
            assert store.asked_afresh == turn + 1


def test_the_same_connection_logs_in_with_the_fresh_value(store: Store) -> None:
    """A refused login is followed by another on the same socket: one connection, two logins."""
    with ValkeyClient(store.url, max_connections=1) as client:
        store.rotate()
        before = int(store.admin.info("stats")["total_connections_received"])
        client.set("a", "x")

        assert int(store.admin.info("stats")["total_connections_received"]) == before + 1
        assert store.refused_logins() == 1


def test_a_store_that_is_behind_is_waited_for_without_a_login(store: Store) -> None:
    """The server has the new password first: the old one is tried once."""
    with ValkeyClient(store.url) as client:
        password = store.rotate(store=False)
        threading.Timer(0.3, lambda: setattr(store, "stored", password)).start()

        assert client.set("a", "x") is True
        assert store.refused_logins() == 1


@pytest.mark.slow
def test_a_password_that_is_wrong_for_good_locks_no_account(store: Store) -> None:
    """A hundred calls make one login in five seconds, each says what is wrong, none shows it."""
    with ValkeyClient(store.url) as client:
        old = store.cached
        password = store.rotate(store=False)
        started = time.monotonic()
        for _ in range(100):
            with pytest.raises(ValkeyConnectionError, match="WRONGPASS") as caught:
                client.get("a")
            assert caught.value.code == "WRONGPASS"
            assert old not in str(caught.value)
        assert "every 5 s at most" in str(caught.value)
        assert store.refused_logins() <= 1 + (time.monotonic() - started) / 5
        # The store learns the right one: the next call works, with no pause in its way.
        store.stored = password

        assert client.set("a", "x") is True


def test_the_plain_driver_rotates_as_well(store: Store) -> None:
    """``client.client`` logs in by the same rules, at each of its reconnects."""
    with ValkeyClient(store.url) as client:
        driver = client.client
        for _ in range(3):
            assert driver.set("a", "x")
            store.rotate()
            assert driver.get("a") == "x"


def test_a_wrong_password_ends_the_constructor_at_once(store: Store) -> None:
    """One value means one login, whether it is a text or a callable that has no other."""
    url = store.url().replace(store.cached, "no-such-password")
    for given in (url, lambda: url):
        before = store.refused_logins()
        with pytest.raises(ValkeyConnectionError, match="WRONGPASS") as caught:
            ValkeyClient(given)
        assert store.refused_logins() == before + 1
        assert "no-such-password" not in str(caught.value)


def test_an_interrupted_login_leaves_no_half_open_connection(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that fails in the middle of a login: its error is the cause, the socket is closed."""
    with ValkeyClient(store.url, max_connections=1) as client:
        store.rotate()

        def fail(*, use_cache: bool = True) -> str:
            if use_cache:
                return old
            raise RuntimeError("the store fell over")

        old = store.url()
        monkeypatch.setattr(client.runner.factory.source, "_url", fail)
        driver: Any = client.client
        with pytest.raises(ValkeyError, match="RuntimeError") as caught:
            client.get("a")
        assert isinstance(caught.value.__cause__, RuntimeError)
        with pytest.raises(RuntimeError, match="fell over"):
            driver.get("a")
        monkeypatch.undo()

        assert client.set("a", "x") is True
        assert driver.get("a") == "x"


def test_what_is_no_url_is_refused() -> None:
    """The message names its type, and not its value."""
    for value in (None, 7, b"redis://:secret@h"):
        with pytest.raises(ValkeyConfigurationError, match=type(value).__name__) as caught:
            ValkeyClient(value)  # type: ignore[arg-type]  # what is tried here
        assert "secret" not in str(caught.value)


def test_a_new_password_is_shown_to_its_own_server_alone(store: Store) -> None:
    """The rotated URL leads elsewhere: the old server sees no login with the new password."""
    own = store.url()
    with ValkeyServer(password="elsewhere") as other:

        def url(*, use_cache: bool = True) -> str:
            return own if use_cache else other.url

        with ValkeyClient(url) as client:
            store.rotate(store=False)

            assert client.set("a", "x") is True
            assert client.get("a") == "x"
            assert store.refused_logins() == 1


def test_a_connection_that_returns_after_a_change_of_users_is_given_up(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was in use when the user changed: its call ends well, and no further one gets it."""
    with ValkeyClient(store.url) as client:
        pool: Any = client.runner.link.pool  # type: ignore[attr-defined]  # one server
        in_use = pool.take()
        changed = pool._generation + 1
        monkeypatch.setattr(pool, "_newest_generation", lambda: changed)
        client.set("a", "x")
        pool._idle.append(in_use)

        assert client.get("a") == "x"
        assert in_use._sock is None
        assert len(pool._idle) == 1

"""Sessions slide, end, and are revoked for good."""

from __future__ import annotations

import re
import threading
import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from clients.errors import ValkeyConfigurationError
from clients.valkey_client import SessionStore, ValkeyClient, ValkeyError
from tests.valkey_helpers import at_once

if TYPE_CHECKING:
    from collections.abc import Iterator

    from utils.local_stack import StackEndpoints


@pytest.fixture
def client(stack: StackEndpoints) -> Iterator[ValkeyClient]:
    """A client whose keys no other test uses."""
    with ValkeyClient(stack.valkey_url, key_prefix=f"test-{uuid4().hex}:") as opened:
        yield opened


@pytest.fixture
def store(client: ValkeyClient) -> SessionStore:
    """A store with the usual time-outs."""
    return SessionStore(client)


def test_a_session_reads_as_it_was_created(store: SessionStore) -> None:
    """User and data come back, with the times that the server keeps."""
    before = time.time()
    session = store.read(store.create("user:1", {"role": "admin", "name": "ü"}))

    assert session is not None
    assert (session.user_id, session.data) == ("user:1", {"role": "admin", "name": "ü"})
    assert before - 5 < session.created_at < time.time() + 5
    assert 1790 < session.expires_at - session.created_at < 1830
    assert session.ends_at - session.created_at == pytest.approx(43_200)


def test_tokens_are_unguessable_and_url_safe(store: SessionStore) -> None:
    """Each token has 256 random bits beyond what names the user."""
    tokens = [store.create("u") for _ in range(50)]

    assert all(re.fullmatch(r"[A-Za-z0-9_-]{65}", token) for token in tokens)
    assert len({token[22:] for token in tokens}) == 50


def test_the_server_holds_no_usable_token(client: ValkeyClient, store: SessionStore) -> None:
    """Whoever reads all of the store's keys and values cannot take over a session."""
    token = store.create("u", {"a": 1})
    dump = ""
    for key in client.client.scan_iter(match=client.key_prefix + "*"):
        dump += key + repr(client.client.hgetall(key))

    assert dump
    assert token not in dump
    assert token[22:] not in dump


@pytest.mark.parametrize("token", ["", "x", "../..", "ü" * 65, "A" * 64, "A" * 65, "A" * 66])
def test_an_unknown_token_is_no_session(store: SessionStore, token: str) -> None:
    """Whatever a browser sends, it reads as absent and revokes nothing."""
    assert store.read(token) is None
    assert store.revoke(token) is False


@pytest.mark.parametrize("token", [None, 5, b"x"])
def test_a_token_is_text(store: SessionStore, token: str) -> None:
    """A mistake in the program is not an absent session."""
    with pytest.raises(ValkeyConfigurationError, match="token"):
        store.read(token)


@pytest.mark.parametrize("user_id", ["", None, 5, "\ud800"])
def test_a_user_id_is_text(store: SessionStore, user_id: str) -> None:
    """Every method refuses a user id that is none."""
    for call in (store.create, store.list, store.revoke_all):
        with pytest.raises(ValkeyConfigurationError):
            call(user_id)


@pytest.mark.parametrize("setting", ["idle_seconds", "absolute_seconds", "namespace"])
def test_bad_settings_are_refused(client: ValkeyClient, setting: str) -> None:
    """Zero is no time-out, and an empty namespace is none."""
    bad: dict[str, object] = {setting: "" if setting == "namespace" else 0}

    with pytest.raises(ValkeyConfigurationError, match=r"namespace|expiry"):
        SessionStore(client, **bad)  # type: ignore[arg-type]


def test_reading_slides_the_idle_timeout(client: ValkeyClient) -> None:
    """A session that is read lives on; one that is not read ends, and leaves nothing."""
    store = SessionStore(client, idle_seconds=2, absolute_seconds=60)
    read, unread = store.create("u"), store.create("v")
    for _ in range(7):
        time.sleep(0.3)
        assert store.read(read) is not None

    assert store.read(unread) is None
    time.sleep(2.2)
    assert store.read(read) is None
    assert list(client.client.scan_iter(match=client.key_prefix + "*")) == []


def test_the_absolute_timeout_ends_a_session_that_is_read(client: ValkeyClient) -> None:
    """However often it is read, it ends."""
    store = SessionStore(client, idle_seconds=60, absolute_seconds=1)
    token = store.create("u")
    end = time.monotonic() + 3
    while store.read(token) is not None:
        assert time.monotonic() < end
        time.sleep(0.05)

    assert store.list("u") == []


def test_the_absolute_timeout_ends_a_session_that_nobody_read(client: ValkeyClient) -> None:
    """A longer idle time-out does not carry it past its end, not even for one read."""
    store = SessionStore(client, idle_seconds=60, absolute_seconds=1)
    token = store.create("u")
    (listed,) = store.list("u")
    time.sleep(1.1)

    assert listed.expires_at == listed.ends_at
    assert store.list("u") == []
    assert store.read(token) is None


def test_one_session_outlives_another_of_the_same_user(client: ValkeyClient) -> None:
    """A short session does not end a long one, nor the other way round."""
    token = SessionStore(client, idle_seconds=100).create("u")
    short = SessionStore(client, idle_seconds=1)
    other = short.create("u")
    time.sleep(1.2)

    assert short.read(other) is None
    assert SessionStore(client).read(token) is not None


def test_revoking_ends_one_session(store: SessionStore) -> None:
    """By token, or by what the list shows; the others stay."""
    first, second, third = (store.create("u", number) for number in range(3))

    assert store.revoke(first) is True
    assert store.revoke(first) is False
    assert store.read(first) is None
    (listed,) = (one for one in store.list("u") if one.data == 1)
    assert store.revoke(listed) is True
    assert store.read(second) is None
    assert store.read(third) is not None


def test_revoking_all_ends_every_session_of_one_user(store: SessionStore) -> None:
    """Log out everywhere: this user's sessions end, another's stay."""
    mine = [store.create("me") for _ in range(3)]
    other = store.create("you")

    assert store.revoke_all("me") == 3
    assert store.revoke_all("me") == 0
    assert [store.read(token) for token in mine] == [None, None, None]
    assert store.read(other) is not None


def test_the_list_has_live_sessions_only(client: ValkeyClient) -> None:
    """Ended sessions leave no member behind, however many there were."""
    short = SessionStore(client, idle_seconds=1)
    for number in range(200):
        short.create("u", number)
    store = SessionStore(client)
    time.sleep(1.1)
    token = store.create("u", "live")

    assert [one.data for one in store.list("u")] == ["live"]
    (key,) = client.client.scan_iter(match=client.key_prefix + "*")
    assert client.client.hlen(key) == 1
    assert token not in repr(store.list("u"))


def test_reading_a_short_session_shortens_no_other(client: ValkeyClient) -> None:
    """All sessions of a user lie under one key, which lives as long as the longest of them."""
    short, long = SessionStore(client, idle_seconds=20), SessionStore(client, idle_seconds=600)
    kept, token = long.create("u", "kept"), short.create("u")
    assert short.read(token) is not None
    (key,) = client.client.scan_iter(match=client.key_prefix + "*")
    assert client.client.ttl(key) > 60
    short.create("u")
    assert client.client.ttl(key) > 60

    assert long.read(kept) is not None


def test_a_revoked_session_never_comes_back(store: SessionStore) -> None:
    """Eight threads renew all sessions of a user while another ends them: none survives."""
    for _ in range(10):
        tokens = [store.create("u") for _ in range(4)]
        stop = threading.Event()

        def renew(tokens: list[str] = tokens, stop: threading.Event = stop) -> None:
            while not stop.is_set():
                for token in tokens:
                    store.read(token)

        threads = [threading.Thread(target=renew) for _ in range(8)]
        for one in threads:
            one.start()
        store.revoke_all("u")
        after = [store.read(token) for token in tokens]
        stop.set()
        for one in threads:
            one.join()

        assert after == [None] * 4
        assert store.list("u") == []


@pytest.mark.parametrize("user_id", [None, uuid4(), 7, "", b"u", "\ud800"], ids=range(6))
def test_a_user_id_that_is_no_text_is_refused_by_its_name(
    store: SessionStore, user_id: str
) -> None:
    """Nobody who calls create() knows of a key."""
    for call in (store.create, store.list, store.revoke_all):
        with pytest.raises(ValkeyConfigurationError, match="user id"):
            call(user_id)


def test_data_that_is_no_json_is_refused(store: SessionStore) -> None:
    """Nothing is stored."""
    with pytest.raises(ValkeyError, match="not JSON"):
        store.create("u", {1, 2})

    assert store.list("u") == []


def test_a_failure_is_not_an_absent_session(stack: StackEndpoints) -> None:
    """When the client cannot ask, nobody is logged out: it raises."""
    client = ValkeyClient(stack.valkey_url)
    store = SessionStore(client)
    token = store.create("u")
    client.close()

    with pytest.raises(ValkeyError):
        store.read(token)


def test_an_update_sets_some_of_the_data(store: SessionStore) -> None:
    """The other names stay, and so does the expiry; what comes back is what a read says."""
    token = store.create("u", {"a": 1, "b": [], "big": 2**60})
    before = store.list("u")[0]
    updated = store.update(token, {"b": {}, "c": None})

    assert updated is not None
    assert updated.data == {"a": 1, "b": {}, "big": 2**60, "c": None}
    assert (updated.expires_at, updated.ends_at) == (before.expires_at, before.ends_at)
    assert store.list("u") == [updated]
    assert store.update(updated, {"a": 2}) is not None
    assert store.list("u")[0].data["a"] == 2


def test_a_replacement_takes_the_place_of_all_data(store: SessionStore) -> None:
    """Whatever JSON has; the expiry stays."""
    token = store.create("u", {"a": 1})
    before = store.list("u")[0]
    values: tuple[Any, ...] = ([1, "ü"], None, {}, "text")
    for data in values:
        replaced = store.replace(token, data)
        assert replaced is not None
        assert replaced.data == data
        assert (replaced.expires_at, replaced.ends_at) == (before.expires_at, before.ends_at)
    with pytest.raises(ValkeyError, match=r"str and has no names to change: use replace"):
        store.update(token, {"a": 1})


def test_neither_brings_a_session_back(client: ValkeyClient) -> None:
    """One that was revoked, has ended or never was stays away."""
    store = SessionStore(client, idle_seconds=1)
    revoked = store.create("u", {})
    store.revoke(revoked)
    ended = store.create("v", {})
    listed = store.list("v")[0]
    time.sleep(1.2)
    for token in (revoked, ended, listed, "A" * 65, "x"):
        assert store.update(token, {"a": 1}) is None
        assert store.replace(token, 1) is None

    assert list(client.client.scan_iter(match=client.key_prefix + "*")) == []


def test_changes_at_the_same_time_are_all_kept(store: SessionStore) -> None:
    """Eight threads each set names of their own, while others read."""
    token = store.create("u", {})
    number = iter(range(8))

    def change() -> None:
        own = next(number)
        for step in range(20):
            assert store.update(token, {f"{own}-{step}": step}) is not None
            store.read(token)

    assert at_once(8, change) == [None] * 8
    session = store.read(token)
    assert session is not None
    assert session.data == {f"{own}-{step}": step for own in range(8) for step in range(20)}


def test_a_revocation_beats_updates_that_are_under_way(store: SessionStore) -> None:
    """Whenever it comes, the session is gone for good."""
    for _ in range(30):
        token = store.create("u", {})
        stop = threading.Event()

        def change(token: str = token, stop: threading.Event = stop) -> None:
            while not stop.is_set():
                store.update(token, {"a": time.monotonic()})

        threads = [threading.Thread(target=change) for _ in range(3)]
        for one in threads:
            one.start()
        time.sleep(0.005)
        assert store.revoke(token)
        stop.set()
        for one in threads:
            one.join()

        assert store.read(token) is None
        assert store.list("u") == []


@pytest.mark.parametrize("changes", [None, [("a", 1)], "text", {1: 2}, {None: 1}])
def test_changes_that_are_no_names_and_values_are_refused(
    store: SessionStore, changes: dict[str, object]
) -> None:
    """Before anything is sent."""
    with pytest.raises(ValkeyConfigurationError, match="changes is"):
        store.update(store.create("u", {}), changes)


def test_an_identity_of_several_values_has_its_sessions(store: SessionStore) -> None:
    """They come back as they were given, and end for exactly this identity."""
    seven = {"tenant_id": 7, "claims": {"sub": "a", "roles": ["x"]}}
    token = store.create("auth0|abc", {"a": 1}, identity=seven)
    other = store.create("auth0|abc", identity={"tenant_id": 8})
    plain = store.create("auth0|abc")
    session = store.read(token)

    assert session is not None
    assert session.user_id == "auth0|abc"
    assert session.identity == {"user_id": "auth0|abc", **seven}
    assert [one.id for one in store.list("auth0|abc", identity=seven)] == [session.id]
    updated = store.update(session, {"b": 2})
    assert updated is not None
    assert updated.identity == session.identity
    assert store.revoke_all(identity=session.identity) == 1
    assert store.read(token) is None
    for one in (other, plain):
        assert store.read(one) is not None


def test_an_identity_without_a_user_id_has_sessions_too(store: SessionStore) -> None:
    """UUIDs come back as their text."""
    number = uuid4()
    session = store.read(store.create(identity={"tenant_id": number}))

    assert session is not None
    assert (session.user_id, session.identity) == ("", {"tenant_id": str(number)})
    assert store.revoke(session) is True


@pytest.mark.parametrize("identity", [{}, "text", {"": 1}, {1: 2}, {"user_id": "x"}])
def test_an_identity_that_names_nobody_is_refused(
    store: SessionStore, identity: dict[str, object]
) -> None:
    """Nothing is sent, and the user id is given once."""
    user_id = "x" if identity and "user_id" in identity else None
    with pytest.raises(ValkeyConfigurationError, match=r"identity|name"):
        store.create(user_id, identity=identity)

"""One user's cache entry never answers another, and nobody's identity can be read from a key."""

from __future__ import annotations

import threading
import traceback
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients._valkey.identity_digest import identity_digest
from clients.errors import ValkeyConfigurationError
from clients.identity import user_context
from clients.valkey_client import ValkeyClient
from tests.valkey_helpers import at_once

if TYPE_CHECKING:
    from collections.abc import Iterator

    from utils.local_stack import StackEndpoints

ADA, BOB = str(uuid4()), str(uuid4())


@pytest.fixture
def client(stack: StackEndpoints) -> Iterator[ValkeyClient]:
    """A client whose keys no other test uses."""
    with ValkeyClient(stack.valkey_url, key_prefix=f"test-{uuid4().hex}:") as opened:
        yield opened


def _be(monkeypatch: pytest.MonkeyPatch, **identity: Any) -> None:
    """Let *identity* be in force."""
    monkeypatch.setattr("clients.valkey_client.current_identity", lambda: identity)


def test_silence_is_refused_inside_a_user_context(client: ValkeyClient) -> None:
    """Nothing is produced or stored: one user's rows in a shared entry is a leak nobody sees."""
    asked: list[int] = []
    with (
        user_context(ADA),
        pytest.raises(ValkeyConfigurationError, match=r"contacts.*per_user=True.*per_user=False"),
    ):
        client.cached("contacts", 60, lambda: asked.append(1))

    assert asked == []
    assert not client.exists("contacts")


def test_a_user_s_entry_is_their_own(client: ValkeyClient) -> None:
    """Each user gets what was produced for them, and again from the cache."""
    for _ in range(2):
        for user in (ADA, BOB):
            with user_context(user):
                made = client.cached("contacts", 60, lambda: f"rows of {user}", per_user=True)  # noqa: B023 - called at once
            assert made == f"rows of {user}"

    assert not client.exists("contacts")


def test_every_value_of_the_identity_counts(
    client: ValkeyClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One user in two tenants is two identities."""
    made = []
    for tenant in (7, 8, 7):
        _be(monkeypatch, user_id=ADA, tenant_id=tenant)
        made.append(client.cached("k", 60, lambda: tenant, per_user=True))  # noqa: B023 - called at once

    assert made == [7, 8, 7]


def test_a_shared_entry_is_everybody_s_when_the_caller_says_so(client: ValkeyClient) -> None:
    """Inside of a user and outside; get_json and delete work on it."""
    with user_context(ADA):
        client.cached("rates", 60, lambda: 1, per_user=False)
    with user_context(BOB):
        assert client.cached("rates", 60, lambda: 2, per_user=False) == 1

    assert client.cached("rates", 60, lambda: 3) == 1
    assert client.get_json("rates") == 1


def test_a_user_s_entry_needs_a_user(client: ValkeyClient) -> None:
    """Outside of any, there is no default one."""
    with pytest.raises(ValkeyConfigurationError, match="outside of any user"):
        client.cached("k", 60, lambda: 1, per_user=True)
    with pytest.raises(ValkeyConfigurationError, match="per_user is int"):
        client.cached("k", 60, lambda: 1, per_user=1)  # type: ignore[arg-type]  # tried here


def test_no_key_shows_who_somebody_is(
    client: ValkeyClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the key nor the lock holds a value of the identity."""
    seen: list[str] = []

    def produce() -> int:
        seen.extend(client.client.scan_iter(match=f"*{client.key_prefix}*"))
        return 1

    _be(monkeypatch, user_id=ADA, email="ada@example.org", claims={"sub": "ada-lovelace"})
    client.cached("k", 60, produce, per_user=True)
    seen += list(client.client.scan_iter(match=f"*{client.key_prefix}*"))

    assert len(seen) == 2
    for private in (ADA, "ada", "example", "lovelace"):
        assert private not in "".join(seen)


def test_a_user_waits_for_their_own_producer_alone(client: ValkeyClient) -> None:
    """Two users at once: two productions, side by side."""
    both = threading.Barrier(2, timeout=10)
    users = iter([ADA, BOB])

    def ask() -> Any:
        with user_context(user := next(users)):
            return client.cached("k", 60, lambda: (both.wait(), user)[1], per_user=True)

    assert sorted(map(str, at_once(2, ask))) == sorted([ADA, BOB])


def test_each_who_waits_gets_an_exception_of_their_own(client: ValkeyClient) -> None:
    """With a traceback of their own: an error report shows no other user's variables."""
    started = threading.Event()

    def produce() -> None:
        started.set()
        threading.Event().wait(0.5)
        raise ZeroDivisionError("no value")

    errors = at_once(6, lambda: client.cached("k", 60, produce))

    assert {type(one) for one in errors} == {ZeroDivisionError}
    assert len({id(one) for one in errors}) == 6
    with_producer = [
        one
        for one in errors
        if isinstance(one, BaseException)
        and "produce" in {frame.name for frame in traceback.extract_tb(one.__traceback__)}
    ]
    assert len(with_producer) == 1


SCALARS = st.none() | st.booleans() | st.integers() | st.text() | st.uuids()
IDENTITIES = st.dictionaries(
    st.text(min_size=1),
    SCALARS | st.lists(SCALARS) | st.dictionaries(st.text(), SCALARS),
    min_size=1,
    max_size=3,
)


def _typed(value: Any) -> Any:
    """Return *value* so that True is not 1, and a UUID is its text."""
    if isinstance(value, dict):
        return {key: _typed(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_typed(one) for one in value]
    return str(value) if type(value).__name__ == "UUID" else (type(value).__name__, value)


@given(IDENTITIES, IDENTITIES)
def test_equal_identities_and_no_others_have_one_digest(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    """In whatever order the values are given."""
    turned = dict(reversed(one.items()))

    assert identity_digest(one) == identity_digest(turned)
    same = _typed(one) == _typed(other)
    assert (identity_digest(one) == identity_digest(other)) is same


def test_a_value_without_a_fixed_text_is_refused() -> None:
    """Two objects may print alike: they are no part of a key."""
    with pytest.raises(ValkeyConfigurationError, match="'who' in the identity is object"):
        identity_digest({"who": object()})

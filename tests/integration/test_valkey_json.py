"""What set_json() writes, get_json() gives back; anything else is refused before it is written."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clients.errors import ValkeyConfigurationError, ValkeyError
from clients.valkey_client import SessionStore, ValkeyClient

if TYPE_CHECKING:
    from collections.abc import Iterator

    from utils.local_stack import StackEndpoints


@pytest.fixture(scope="module")
def client(stack: StackEndpoints) -> Iterator[ValkeyClient]:
    """A client whose keys no other test uses."""
    with ValkeyClient(stack.valkey_url, key_prefix=f"test-{uuid4().hex}:") as opened:
        yield opened


KEYS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
SCALARS = KEYS | st.binary(max_size=3) | st.characters(categories=["Cs"])
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.sampled_from([1, "1", True, "true", None, "null", 1.5, "1.5"]), inner)
    ),
    max_leaves=12,
)


def _as_json_has_it(value: Any) -> Any:
    """Return *value* with lists for tuples and texts for keys, in Python alone."""
    if isinstance(value, list | tuple):
        return [_as_json_has_it(one) for one in value]
    if isinstance(value, dict):
        texts = [key if isinstance(key, str) else json.dumps(key) for key in value]
        assert len(set(texts)) == len(texts)
        return dict(zip(texts, map(_as_json_has_it, value.values()), strict=True))
    return value


@settings(max_examples=150)
@given(value=VALUES)
@example(value={float("inf"): b""})
@example(value=[float("nan"), {("a",): 1}])
def test_what_is_written_comes_back_or_is_refused(client: ValkeyClient, value: Any) -> None:
    """Equal to what was given, but for lists and the text of keys; no value is lost on the way."""
    client.set_json("j", "before")
    refusal = None
    try:
        client.set_json("j", value)
    except ValkeyConfigurationError as error:
        refusal = error

    if refusal is None:
        assert client.get_json("j") == _as_json_has_it(value)
    else:
        assert f"{client.key_prefix}j" in str(refusal)
        assert client.get_json("j") == "before"


@pytest.mark.parametrize(
    "value",
    [
        {1: "a", "1": "b"},
        {"deep": [{"er": {True: 1, "true": 2}}]},
        {None: 1, "null": 2},
        [{1.5: 1, "1.5": 2}],
    ],
    ids=repr,
)
def test_keys_that_become_one_are_refused(client: ValkeyClient, value: Any) -> None:
    """At any depth, in all that writes JSON, and nothing is written."""
    store = SessionStore(client)
    token = store.create("u", {"a": 1})
    client.delete_many(["j", "c"])
    for call in (
        lambda: client.set_json("j", value),
        lambda: client.pipeline().set_json("j", value),
        lambda: client.cached("c", 60, lambda: value),
        lambda: store.create("u", value),
        lambda: store.replace(token, value),
        lambda: store.update(token, {"b": value}),
    ):
        with pytest.raises(ValkeyConfigurationError, match="two keys of a dict are the same"):
            call()

    assert client.get_many(["j", "c"]) == {"j": None, "c": None}
    session = store.read(token)
    assert session is not None
    assert session.data == {"a": 1}


def test_deep_values_are_written_only_where_they_can_be_read(client: ValkeyClient) -> None:
    """A list in a list, deeper and deeper, until it is refused: all before that come back."""
    value: list[Any] = []
    failures: list[ValkeyConfigurationError] = []
    while not failures:
        for _ in range(400):
            value = [value]
        client.delete("deep")
        try:
            client.set_json("deep", value)
        except ValkeyConfigurationError as error:
            failures.append(error)
        else:
            assert client.get_json("deep") is not None

    assert "nested too deeply" in str(failures[0])
    assert not client.exists("deep")


def test_json_default_writes_what_json_does_not_know(stack: StackEndpoints) -> None:
    """As json.dumps(default=) does, for values, cache entries and sessions."""
    when, number = datetime(2026, 1, 2, tzinfo=UTC), uuid4()
    prefix = f"test-{uuid4().hex}:"
    with ValkeyClient(stack.valkey_url, key_prefix=prefix, json_default=str) as client:
        client.set_json("j", {"when": when, "who": [number]})
        store = SessionStore(client)
        session = store.read(store.create("u", when))

        assert client.get_json("j") == {"when": str(when), "who": [str(number)]}
        assert client.cached("c", 60, lambda: number) == str(number)
        assert session is not None
        assert session.data == str(when)


def test_a_failing_json_default_refuses_the_value(stack: StackEndpoints) -> None:
    """Its error is named by its class, and the value does not show."""

    def only_ids(value: object) -> str:
        if isinstance(value, UUID):
            return str(value)
        raise TypeError(f"not for {value!r}")

    with ValkeyClient(stack.valkey_url, json_default=only_ids) as client:
        with pytest.raises(ValkeyConfigurationError, match="json_default raised TypeError") as one:
            client.set_json("j", {"private"})
        with pytest.raises(ValkeyConfigurationError, match="nested too deeply, or contains itself"):
            ValkeyClient(stack.valkey_url, json_default=lambda v: [v]).set_json("j", {1})

    assert "private" not in str(one.value)
    assert one.value.__context__ is None


def test_a_json_default_that_cannot_be_called_is_refused(stack: StackEndpoints) -> None:
    """Before anything is opened."""
    with pytest.raises(ValkeyConfigurationError, match="json_default is int"):
        ValkeyClient(stack.valkey_url, json_default=5)  # type: ignore[arg-type]  # tried here


def test_a_value_that_is_refused_stays_out_of_the_error(client: ValkeyClient) -> None:
    """Neither a cause nor a context carries it."""
    client.set("text", "{private")
    for call in (
        lambda: client.get_json("text"),
        lambda: client.set_json("j", ["private", float("nan")]),
        lambda: client.set_json("j", "private\ud800"),
    ):
        with pytest.raises(ValkeyError) as caught:
            call()
        assert "private" not in str(caught.value)
        assert caught.value.__cause__ is caught.value.__context__ is None

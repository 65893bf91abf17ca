"""The current user: per thread and task, nested, restored, and missing loudly."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from clients.errors import PostgresError, RlsContextError
from clients.identity import (
    clear_current_user_id,
    current_identity,
    get_current_user_id,
    parse_user_id,
    set_current_user_id,
    user_context,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

ANN, BOB = UUID(int=1), UUID(int=2)


@pytest.fixture(autouse=True)
def _nobody() -> Iterator[None]:
    clear_current_user_id()
    yield
    clear_current_user_id()


def test_there_is_no_user_at_first() -> None:
    """The error names every mend, and the trap of thread pools."""
    with pytest.raises(RlsContextError) as caught:
        get_current_user_id()

    for words in ("set_current_user_id()", "user_context()", "user_id=", "copy_context().run"):
        assert words in str(caught.value)
    assert "thread pool's threads do not inherit" in str(caught.value)
    assert isinstance(caught.value, PostgresError)


class PrefixedId(UUID):
    """A UUID that shows itself in another way, as those of frameworks and drivers may."""

    def __str__(self) -> str:
        return f"user_{self.hex}', true); --"


def test_a_subclass_of_uuid_is_the_uuid_that_it_stands_for() -> None:
    """Its text goes into SQL, and must be a UUID's."""
    with user_context(PrefixedId(int=ANN.int)) as user:
        assert (type(user), str(user)) == (UUID, str(ANN))
    assert type(parse_user_id(PrefixedId(int=ANN.int))) is UUID


def test_set_and_clear() -> None:
    """What was set is there until it is cleared."""
    set_current_user_id(ANN)
    assert get_current_user_id() == ANN
    set_current_user_id(str(BOB))
    assert get_current_user_id() == BOB
    clear_current_user_id()
    with pytest.raises(RlsContextError):
        get_current_user_id()


def test_contexts_nest_and_restore() -> None:
    """Each end brings the one before it back, and the last one nobody."""
    with user_context(ANN) as outer:
        with user_context(str(BOB)) as inner:
            assert (outer, inner, get_current_user_id()) == (ANN, BOB, BOB)
        assert get_current_user_id() == ANN
    with pytest.raises(RlsContextError):
        get_current_user_id()


def test_an_exception_restores_too() -> None:
    """The user does not outlive the block that failed."""
    set_current_user_id(ANN)
    with pytest.raises(KeyError), user_context(BOB):
        raise KeyError

    assert get_current_user_id() == ANN


def test_what_is_set_inside_a_context_ends_with_it() -> None:
    """A set or clear in the block is undone by its end."""
    with user_context(ANN):
        with user_context(ANN):
            set_current_user_id(BOB)
        assert get_current_user_id() == ANN
        clear_current_user_id()
    with pytest.raises(RlsContextError):
        get_current_user_id()


@pytest.mark.parametrize(
    "bad",
    [
        None,
        "",
        " ",
        "nobody",
        "0" * 31,
        "0" * 33,
        7,
        b"0" * 16,
        ["x"],
        object(),
        "x" * 9999,
        10**5000,
    ],
    ids=range(12),
)
def test_what_is_no_uuid_is_refused_and_changes_nothing(bad: Any) -> None:
    """The message has its type; the value may be personal."""
    set_current_user_id(ANN)
    for call in (set_current_user_id, parse_user_id):
        with pytest.raises(RlsContextError, match=type(bad).__name__) as caught:
            call(bad)
        assert "is not a UUID" in str(caught.value)
        assert len(str(caught.value)) < 200
        assert "nobody" not in str(caught.value)

    assert get_current_user_id() == ANN


@pytest.mark.parametrize("bad", [None, "", b"", {}, "a\0b", {"sub": object}], ids=range(6))
def test_what_fits_no_client_is_refused_at_once(bad: Any) -> None:
    """Whatever the types of a client's identity, for each name; and nothing is changed."""
    bad = {"sub": threading.Lock()} if bad == {"sub": object} else bad
    set_current_user_id(ANN)
    for given, named in (((bad,), {}), ((ANN,), {"tenant_id": bad})):
        with pytest.raises(RlsContextError) as caught:
            user_context(*given, **named)
        assert "a\0b" not in str(caught.value)
    with pytest.raises(RlsContextError, match="nobody"):
        user_context()
    with pytest.raises(RlsContextError, match="two values for user_id"):
        user_context(ANN, user_id=BOB)
    assert get_current_user_id() == ANN


def test_an_identity_may_have_several_values() -> None:
    """An inner block stands over an outer one, name by name."""
    with user_context("auth0|abc", tenant_id=7) as user:
        assert user == "auth0|abc"
        assert current_identity() == {"user_id": "auth0|abc", "tenant_id": 7}
        with user_context(tenant_id=8) as nobody:
            assert nobody is None
            assert current_identity() == {"user_id": "auth0|abc", "tenant_id": 8}
        with user_context(ANN):
            assert current_identity() == {"user_id": ANN, "tenant_id": 7}
            set_current_user_id(BOB)
            assert current_identity() == {"user_id": BOB, "tenant_id": 7}
            clear_current_user_id()
            assert current_identity() == {}
        with pytest.raises(RlsContextError, match="not a UUID"):
            get_current_user_id()
    assert current_identity() == {}


def test_an_identity_is_its_scopes_own() -> None:
    """What the caller does with a token's claims later changes nobody's identity."""
    claims = {"sub": "ann", "roles": ["reader"]}
    with user_context(claims=claims):
        claims["roles"].append("admin")  # type: ignore[attr-defined]  # a list
        current_identity()["claims"]["sub"] = "bob"  # type: ignore[index]  # a dict
        assert current_identity() == {"claims": {"sub": "ann", "roles": ["reader"]}}


def test_a_text_that_is_similar_to_a_uuid_stays_as_it_is() -> None:
    """Where ids are texts, another spelling may be another user."""
    for text in (str(ANN).upper(), ANN.hex, f"{{{BOB}}}"):
        with user_context(text) as user:
            assert user in (ANN, BOB)
            expected = UUID(text) if text == str(UUID(text)) else text
            assert current_identity() == {"user_id": expected}


def test_a_uuid_and_its_texts_are_one_user() -> None:
    """Case, braces and missing dashes do not make another user."""
    user = uuid4()

    for form in (user, str(user), str(user).upper(), user.hex, f"{{{user}}}", user.urn):
        assert parse_user_id(form) == user


def test_a_thread_starts_without_a_user() -> None:
    """A thread of its own inherits nobody, and what it sets stays with it."""
    seen: list[object] = []

    def target() -> None:
        try:
            seen.append(get_current_user_id())
        except RlsContextError:
            seen.append(None)
        set_current_user_id(BOB)

    with user_context(ANN):
        thread = threading.Thread(target=target)
        thread.start()
        thread.join()
        assert get_current_user_id() == ANN

    assert seen == [None]


def test_a_thread_pool_needs_the_context_given() -> None:
    """submit() alone raises; copy_context().run and user_context() inside the task work."""

    def inside() -> UUID:
        with user_context(BOB):
            return get_current_user_id()

    with ThreadPoolExecutor(1) as pool, user_context(ANN):
        with pytest.raises(RlsContextError):
            pool.submit(get_current_user_id).result()
        assert pool.submit(copy_context().run, get_current_user_id).result() == ANN
        assert pool.submit(inside).result() == BOB
        with pytest.raises(RlsContextError):
            pool.submit(get_current_user_id).result()


def test_tasks_do_not_see_each_other() -> None:
    """Two tasks of one thread that take turns keep a user each."""

    async def task(user: UUID) -> list[UUID]:
        with user_context(user):
            seen = []
            for _ in range(5):
                await asyncio.sleep(0)
                seen.append(get_current_user_id())
            return seen

    async def both() -> list[list[UUID]]:
        return list(await asyncio.gather(task(ANN), task(BOB)))

    assert asyncio.run(both()) == [[ANN] * 5, [BOB] * 5]

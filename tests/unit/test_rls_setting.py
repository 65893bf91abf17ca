"""Which values an identity takes, and that what it refuses is named and never shown."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from enum import IntEnum, StrEnum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients import ConfigurationError
from clients._postgres.rls_context import DEFAULT_IDENTITY, RlsContexts
from clients._postgres.transaction_sql import ContextSql
from clients.errors import PostgresConfigurationError, RlsContextError
from clients.identity import RlsSetting, user_context

ADA = UUID(int=1)


class Shown(UUID):
    """A UUID that shows itself in another way."""

    def __str__(self) -> str:
        return "'; DROP TABLE users; --"


class Text(str):
    """A str that shows itself in another way."""

    __slots__ = ()

    def __str__(self) -> str:
        return "other"


class Number(IntEnum):
    """An int with a name."""

    ONE = 1


class Word(StrEnum):
    """A str with a name."""

    ONE = "one"


def contexts(**types: Any) -> RlsContexts:
    """Return what a client makes its calls of, with one setting for each type."""
    identity = {
        name: one if isinstance(one, RlsSetting) else RlsSetting(f"shop.{name}", one)
        for name, one in types.items()
    }
    return RlsContexts(identity, None, 30_000)


@pytest.mark.parametrize(
    "name",
    [
        "tenant_id",
        "shop.",
        ".tenant",
        "shop..tenant",
        "shop.tenant id",
        "shop.tenant'",
        "shop.tenant\0",
        "shop.tenant\n",
        "shop.1",
        "1shop.a",
        "laden.kündin",
        "a." + "b" * 62,
        "pg_catalog.a",
        "PG_x.a",
        "plpgsql.extra_warnings",
        "",
        7,
        pytest.param(10**5000, id="huge"),
        None,
        b"shop.tenant",
    ],
)
def test_a_setting_needs_a_name_that_the_server_takes(name: Any) -> None:
    """With a dot, of an application's own, and short enough."""
    with pytest.raises(PostgresConfigurationError, match="setting"):
        RlsSetting(name)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RlsSetting("a.b", float),
        lambda: RlsSetting("a.b", bool),
        lambda: RlsSetting("a.b", "int"),
        lambda: RlsSetting("a.b", list),
        lambda: RlsSetting("a.b", encode="str"),  # type: ignore[arg-type]
        lambda: RlsSetting("a.b", required="no"),  # type: ignore[arg-type]
        lambda: RlsSetting("a.b", [], encode=str),
    ],
)
def test_a_setting_needs_a_type_that_has_a_text(make: Any) -> None:
    """UUID, int, str, dict, or any other class with encode=."""
    with pytest.raises(ConfigurationError):
        make()


def test_a_setting_can_be_spelled() -> None:
    """As configuration files and command lines have it."""
    assert RlsSetting.from_text("app.user_id") == RlsSetting("app.user_id", UUID)
    assert RlsSetting.from_text("shop.tenant_id:int") == RlsSetting("shop.tenant_id", int)
    assert RlsSetting.from_text("a.b:str?") == RlsSetting("a.b", str, required=False)
    assert RlsSetting.from_text("a.b:dict") == RlsSetting("a.b", dict)
    wrong: list[Any] = ["", "a", "a.b:", "a.b:float", "a.b:int:", ":int", "a.b?", None, 7]
    for text in wrong:
        with pytest.raises(PostgresConfigurationError):
            RlsSetting.from_text(text)


def test_a_setting_is_a_plain_value() -> None:
    """It can be compared, used as a key, and pickled."""
    setting = RlsSetting("shop.tenant_id", int, required=False)

    assert pickle.loads(pickle.dumps(setting)) == setting  # noqa: S301 - our own
    assert len({setting, RlsSetting("shop.tenant_id", int, required=False)}) == 1
    assert RlsSetting("a.b") == RlsSetting("a.b", UUID, required=True, encode=None)


@pytest.mark.parametrize(
    "identity",
    [
        {},
        [],
        "user_id",
        {"user_id": "app.user"},
        {"user id": RlsSetting("a.b")},
        {7: RlsSetting("a.b")},
        {"a": RlsSetting("a.b"), "b": RlsSetting("A.B")},
    ],
    ids=range(7),
)
def test_a_clients_identity_maps_names_to_settings_of_their_own(identity: Any) -> None:
    """An unusable one is refused at construction."""
    with pytest.raises(PostgresConfigurationError):
        RlsContexts(identity, None, 0)


@pytest.mark.parametrize("role", ["", "none", "a\0b", "x" * 64, 7, "ü" * 40, "\ud800"])
def test_a_local_role_needs_a_name(role: Any) -> None:
    """``none`` is how SQL says that no role shall be taken."""
    with pytest.raises(PostgresConfigurationError, match="local_role"):
        RlsContexts(None, role, 0)


REFUSED: list[tuple[type, object]] = [
    (UUID, "auth0|abc"),
    (UUID, 7),
    (UUID, b"0" * 16),
    (int, True),
    (int, 7.0),
    (int, "7"),
    (int, Number.ONE),
    (int, 2**63),
    (int, -(2**63) - 1),
    (int, 10**5000),
    (int, ADA),
    (str, ""),
    (str, "a\0b"),
    (str, "x" * 8193),
    (str, "ü" * 4097),
    (str, "\ud800"),
    (str, 7),
    (str, b"abc"),
    (str, Text("abc")),
    (str, Word.ONE),
    (dict, {}),
    (dict, "{}"),
    (dict, OrderedDict(sub="abc")),
    (dict, {"sub": "a\0b"}),
    (dict, {"a\0b": 1}),
    (dict, {1: "a", "1": "b"}),
    (dict, {"sub": {None: 1}}),
    (dict, {"sub": float("nan")}),
    (dict, {"sub": [{1, 2}]}),
    (dict, {"sub": ADA}),
    (dict, {"sub": Text("abc")}),
    (dict, {"sub": "\ud800"}),
    (dict, {"sub": "x" * 8192}),
    (dict, {"sub": 10**5000}),
]


@pytest.mark.parametrize(("kind", "value"), REFUSED, ids=range(len(REFUSED)))
def test_a_value_that_does_not_fit_is_refused_by_name(kind: type, value: object) -> None:
    """Its content may be personal, and stands neither in the message nor in what led to it."""
    for name in ("user_id", "tenant_id"):
        with pytest.raises(RlsContextError) as caught:
            contexts(**{name: kind}).of(None, {name: value})

        words = str(caught.value)
        assert ("user id" if name == "user_id" else name) in words
        assert len(words) < 200
        assert not any(text in words for text in ("abc", "auth0", "a\0b", "DROP"))
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None or caught.value.__suppress_context__


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {"a": 1}
    for _ in range(depth):
        value = {"a": value}
    return value


def test_a_dict_without_end_is_refused() -> None:
    """Neither depth nor a circle ends in a RecursionError."""
    circle: dict[str, Any] = {}
    circle["self"] = circle
    for value in (nested(100_000), circle):
        with pytest.raises(RlsContextError, match="nested too deeply"):
            contexts(claims=dict).of(None, {"claims": value})


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (UUID, ADA, str(ADA)),
        (UUID, str(ADA).upper(), str(ADA)),
        (UUID, Shown(int=1), str(ADA)),
        (int, 0, "0"),
        (int, -(2**63), str(-(2**63))),
        (int, 2**63 - 1, str(2**63 - 1)),
        (str, "auth0|abc", "auth0|abc"),
        (str, ADA, str(ADA)),
        (str, "'; DROP TABLE users; --", "'; DROP TABLE users; --"),
        (dict, {"sub": "ü", "n": [1, None, True, 1.5]}, '{"n": [1, null, true, 1.5], "sub": "ü"}'),
    ],
)
def test_a_value_that_fits_is_sent_as_it_is(kind: type, value: object, text: str) -> None:
    """Each type has one text, and equal values have equal ones."""
    assert contexts(one=kind).of(None, {"one": value}).values == (text.encode(),)


class Place:
    """A type of an application's own."""

    def __init__(self, name: object) -> None:
        self.name = name


def test_other_types_have_an_encoder() -> None:
    """What it returns is checked as any text; what it raises is ours, without the value."""
    setting = RlsSetting("shop.place", Place, encode=lambda place: place.name)
    known = contexts(place=setting)

    assert known.of(None, {"place": Place("Paris")}).values == (b"Paris",)
    for bad in (Place(""), Place("a\0b"), Place(7), Place(Text("x")), "Paris", None):
        with pytest.raises(RlsContextError, match="place"):
            known.of(None, {"place": bad})
    failing = contexts(place=RlsSetting("shop.place", str, encode=lambda text: text[99]))
    with pytest.raises(RlsContextError, match="place: encode failed with IndexError") as caught:
        failing.of(None, {"place": "Paris"})
    assert caught.value.__context__ is None
    numbers = contexts(n=RlsSetting("shop.n", int, encode=str))
    with pytest.raises(RlsContextError, match="n must be of type int, and is bool"):
        numbers.of(None, {"n": True})


@pytest.mark.parametrize(
    ("kind", "value"),
    [(int, Number.ONE), (str, Text("abc")), (UUID, Shown(int=1)), (str, Word.ONE)],
)
def test_an_encoder_of_a_plain_type_gets_no_subclass(kind: type, value: object) -> None:
    """Its text may be another than what it compares as, with an encoder as without one."""
    known = contexts(n=RlsSetting("shop.n", kind, encode=str))
    with pytest.raises(RlsContextError, match="n must be of type"):
        known.of(None, {"n": value})


def test_there_is_no_partial_identity() -> None:
    """All required values are there, or the call is refused with the names of those that miss."""
    known = contexts(
        tenant_id=int, user_id=str, region=RlsSetting("shop.region", str, required=False)
    )
    full = {"tenant_id": 7, "user_id": "abc"}
    assert known.of(None, full).values == (b"7", b"abc", b"")
    assert known.of(None, {**full, "region": None}).values == (b"7", b"abc", b"")
    assert known.of("abc", {"tenant_id": 7, "region": "eu"}).values == (b"7", b"abc", b"eu")

    with pytest.raises(RlsContextError, match="no tenant_id and no user_id"):
        known.of(None, None)
    with pytest.raises(RlsContextError, match="no user_id"):
        known.of(None, {"tenant_id": 7})
    with pytest.raises(RlsContextError, match="no tenant_id"):
        known.of("abc", {"region": "eu"})
    with pytest.raises(RlsContextError, match="no user_id"):
        known.of(None, {"tenant_id": 7, "user_id": None})
    with pytest.raises(RlsContextError, match="region is empty"):
        known.of(None, {**full, "region": ""})


def test_values_of_a_call_stand_over_ambient_ones_name_by_name() -> None:
    """An ambient name that the client does not know may be another client's; a call's is wrong."""
    known = contexts(tenant_id=int, user_id=str)
    with user_context("abc", tenant_id=7, planet="earth"):
        assert known.of(None, None).values == (b"7", b"abc")
        assert known.of(None, {"tenant_id": 8}).values == (b"8", b"abc")
        assert known.of("xyz", None).values == (b"7", b"xyz")
        for given_name in ("planet", "tenant"):
            with pytest.raises(RlsContextError, match=f"no {given_name}: it is made of tenant_id"):
                known.of(None, {given_name: 8})
        with pytest.raises(RlsContextError, match="twice"):
            known.of("xyz", {"user_id": "xyz"})
        with pytest.raises(RlsContextError, match="no user_id: it is made of tenant_id"):
            contexts(tenant_id=int).of("xyz", None)
        assert contexts(tenant_id=int).of(None, None).values == (b"7",)
        wrong: list[Any] = [[], "abc", 7, {("a",): 1}]
        for bad in wrong:
            with pytest.raises(RlsContextError):
                known.of(None, bad)


def test_a_missing_value_names_what_the_context_has_in_its_place() -> None:
    """A misspelt name is shown beside the one that is missing; one that is known is not."""
    own = contexts(tenant_id=int, user_id=str)
    with user_context("auth0|abc", tenant=7):
        with pytest.raises(RlsContextError, match=r"^no tenant_id: ") as caught:
            own.of(None, None)
        assert "The context has tenant, which this client does not know" in str(caught.value)
    with user_context(tenant=7), pytest.raises(RlsContextError, match="context has tenant, which"):
        RlsContexts(None, None, 0).of(None, None)
    with user_context("auth0|abc"), pytest.raises(RlsContextError) as caught:
        own.of(None, None)
    assert "context has" not in str(caught.value)


def test_an_ambient_value_of_another_type_is_refused_in_the_call() -> None:
    """user_context() cannot know the client that is called inside it."""
    with user_context("auth0|abc"):
        assert contexts(user_id=str).of(None, None).values == (b"auth0|abc",)
        with pytest.raises(RlsContextError, match="user id is not a UUID") as caught:
            RlsContexts(None, None, 0).of(None, None)
        assert "identity={'user_id': RlsSetting(..., str)}" in str(caught.value)
    with user_context(ADA):
        assert contexts(user_id=str).of(None, None).values == (str(ADA).encode(),)
        with pytest.raises(RlsContextError, match="user id must be of type int, and is UUID"):
            contexts(user_id=int).of(None, None)


def test_contexts_are_equal_for_one_identity_alone() -> None:
    """Blocks join by it, whatever form the values had."""
    known = contexts(tenant_id=int, claims=dict)
    one = known.of(None, {"tenant_id": 7, "claims": {"a": 1, "b": 2}})

    assert one == known.of(None, {"claims": {"b": 2, "a": 1}, "tenant_id": 7})
    assert one != known.of(None, {"claims": {"b": 2, "a": 1}, "tenant_id": 8})
    assert one != known.admin
    assert "7" not in one.words
    assert "7" not in repr(one.what)


@given(st.lists(st.text(min_size=1, max_size=50), min_size=3, max_size=3))
def test_no_value_stands_in_the_text_of_a_statement(texts: list[str]) -> None:
    """All are parameters, and the text is the same for all: it is prepared once."""
    sql = ContextSql(["shop.a", "shop.b", "shop.c"], "authenticated", 1000)
    values = tuple(text.encode("utf-8", "replace") for text in texts)
    other = (b"x",) * 3
    for statement, same in (
        (sql.of_call(values), sql.of_call(other)),
        (sql.of_block(values, b"mark"), sql.of_block(other, b"other")),
    ):
        assert statement.params is not None
        assert set(values) <= set(statement.params)
        assert statement.query == same.query


def test_the_default_is_one_user_with_a_uuid() -> None:
    """Its statement is what it was before clients had an identity."""
    known = RlsContexts(None, None, 30_000)
    assert dict(DEFAULT_IDENTITY) == {"user_id": RlsSetting("app.current_user_id", UUID)}
    statement = known.of(ADA, None).to_prepare()

    assert statement.query == (
        b"SELECT pg_catalog.pg_backend_pid(), pg_catalog.pg_advisory_unlock_all(),"
        b" pg_catalog.set_config('statement_timeout', $1, true),"
        b" pg_catalog.set_config('app.current_user_id', $2, true)"
    )
    assert statement.params == (b"30000", str(ADA).encode())
    assert known.of(ADA, None).what == f"the block of connection() for user {ADA}"
    assert known.admin.what == "the block of admin_connection()"


class _Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


def test_a_name_that_cannot_be_printed_is_refused_as_ours() -> None:
    """In a call, beside a name that is missing, and at construction."""
    unprintable: Any = _Unprintable()
    with pytest.raises(RlsContextError, match="has no <_Unprintable"):
        RlsContexts(None, None, 0).of(None, {unprintable: 1})
    with pytest.raises(PostgresConfigurationError, match="is not a name"):
        RlsContexts({unprintable: RlsSetting("app.tenant_id", int)}, None, 0)

"""What goes in as a parameter and comes out as a value: types, sizes, and what cannot be sent."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from contextlib import nullcontext
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.adapt import Dumper
from psycopg.rows import tuple_row
from psycopg.types.json import Jsonb

from clients.errors import PostgresError
from clients.postgres_client import PostgresClient
from tests.postgres_helpers import add_contact, contact_names, one_session_client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from utils.local_stack import StackEndpoints

MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def client(stack: StackEndpoints) -> Iterator[PostgresClient]:
    with one_session_client(stack) as made:
        yield made


VALUES: list[tuple[str, Any]] = [
    ("int", 7),
    ("bigint", -(2**62)),
    ("numeric", Decimal("12345678901234567890.123456789")),
    ("float8", 1.5),
    ("boolean", True),
    ("text", "a'b\"c\\d%e\u00e4\u4e16\U0001f600"),
    ("bytea", b"\x00\xff\\'"),
    ("uuid", UUID("00000000-0000-4000-8000-000000000000")),
    ("date", dt.date(2026, 2, 28)),
    ("timestamptz", dt.datetime(2026, 2, 28, 12, 30, tzinfo=dt.UTC)),
    ("interval", dt.timedelta(days=2, seconds=3)),
    ("int[]", [1, 2, 3]),
    ("text[]", ["a,b", '"', "NULL", None]),
    ("uuid[]", [UUID(int=1), UUID(int=2)]),
]


@pytest.mark.parametrize(("type_name", "value"), VALUES)
@pytest.mark.parametrize("place", ["alone", "in a block"])
def test_values_come_back_as_they_went(
    client: PostgresClient, user: UUID, type_name: str, value: Any, place: str
) -> None:
    """Python's types are psycopg's, in a call of its own as in a block."""
    query = f"SELECT %s::{type_name} AS value"
    if place == "alone":
        rows = client.execute(query, (value,), user)
    else:
        with client.connection(user):
            rows = client.execute(query, (value,), user)

    assert rows == [{"value": value}]
    assert type(rows[0]["value"]) is type(value)


def test_json_goes_in_and_comes_out_as_python_values(client: PostgresClient, user: UUID) -> None:
    """A Jsonb parameter is read back as dicts and lists."""
    value = {"a": [1, None, {"b": "\u00e4"}]}

    assert client.execute_scalar("SELECT %s", (Jsonb(value),), user) == value


def test_null_goes_both_ways(client: PostgresClient, user: UUID) -> None:
    """None is NULL, with a type and without one."""
    assert client.execute("SELECT %s AS a, %s::int AS b", (None, None), user) == [
        {"a": None, "b": None}
    ]


def test_the_query_can_be_text_bytes_or_composed(client: PostgresClient, user: UUID) -> None:
    """Every form that psycopg takes works, with sequences and mappings as parameters."""
    composed = sql.SQL("SELECT {} AS {}").format(sql.Placeholder(), sql.Identifier('odd "name'))

    assert client.execute(b"SELECT %s::int AS a", [1], user) == [{"a": 1}]
    assert client.execute(composed, ("x",), user) == [{'odd "name': "x"}]
    assert client.execute("SELECT %(n)s::int + %(n)s::int AS a", {"n": 2}, user) == [{"a": 4}]
    assert client.execute("SELECT 1 AS \u00e4\u4e16", user_id=user) == [{"\u00e4\u4e16": 1}]


@pytest.mark.parametrize("empty", [(), [], {}, None])
def test_a_percent_sign_is_literal_without_parameters(
    client: PostgresClient, user: UUID, empty: Any
) -> None:
    """LIKE '%a' needs no doubling when nothing is substituted; it does when something is."""
    query = "SELECT 'banana' LIKE '%nana' AS a"

    assert client.execute(query, empty, user) == [{"a": True}]
    with client.connection(user):
        assert client.execute(query, empty, user) == [{"a": True}]
    assert client.execute("SELECT %s LIKE '%%nana' AS a", ("banana",), user) == [{"a": True}]


def test_text_parameters_are_never_sql(client: PostgresClient, user: UUID) -> None:
    """The classic injection is a name like any other."""
    name = "x'); DELETE FROM contacts; --"
    add_contact(client, user, name)

    assert contact_names(client, user) == [name]


@pytest.mark.parametrize(
    ("query", "params", "words"),
    [
        ("SELECT %s", ("a\0b",), "NUL"),
        ("SELECT %s", ("\ud800",), "surrogates"),
        ("SELECT '\ud800'", (), "surrogates"),
        ("SELECT %s", (object(),), "cannot adapt type 'object'"),
        ("SELECT %s", (Jsonb(object()),), "not JSON serializable"),
        ("SELECT %s, %s", (1,), "2 placeholders but 1"),
        ("SELECT %(a)s", {"b": 1}, "parameter missing: a"),
        ("SELECT %s", 5, "a sequence.* mapping"),
        ("SELECT %s", "text", "a sequence.* mapping"),
        ("SELECT %d", (1,), "only '%s', '%b', '%t' are allowed"),
        ("SELECT %%", (1,), "0 placeholders but 1"),
        (None, (), "NoneType"),
        (5, (1,), "int"),
    ],
)
@pytest.mark.parametrize("place", ["alone", "in a block", "many", "many in a block"])
def test_what_cannot_be_sent_is_our_error_and_the_session_stays(
    client: PostgresClient, *, query: Any, params: Any, words: str, place: str
) -> None:
    """Nothing of psycopg's or Python's escapes, and the next call is served."""
    user = uuid4()
    before = client.execute_scalar("SELECT pg_backend_pid()", user_id=user)

    def call() -> object:
        with client.connection(user) if "block" in place else nullcontext():
            if "many" in place:
                return client.execute_many(query, [params], user)
            return client.execute(query, params, user)

    with pytest.raises(PostgresError, match=words):
        call()
    assert client.execute_scalar("SELECT pg_backend_pid()", user_id=user) == before


class BrokenRow(Sequence[Any]):
    """Parameters whose own code fails."""

    def __len__(self) -> int:
        raise OwnError("length", code=1)

    def __getitem__(self, _: Any) -> Any:
        raise OwnError("value", code=2)


class OwnError(Exception):
    """An error of the caller's, whose constructor takes more than a text."""

    def __init__(self, what: str, *, code: int) -> None:
        super().__init__(what)
        self.code = code


@pytest.mark.parametrize(
    ("query", "params"),
    [
        (sql.SQL("SELECT {}").format(sql.Literal(object())), ()),
        (sql.SQL("SELECT {}").format(sql.Literal("\ud800")), ()),
        (sql.SQL("SELECT {}").format(sql.Identifier("a\0b")), ()),
        ("SELECT %s", BrokenRow()),
    ],
    ids=["no type", "no text", "a NUL", "no length"],
)
@pytest.mark.parametrize(
    "call",
    [
        PostgresClient.execute,
        PostgresClient.execute_one,
        PostgresClient.execute_scalar,
        lambda client, query, params, user: client.execute_many(query, [params], user),
        lambda client, query, params, user: client.stream(query, params, user_id=user).__enter__(),
    ],
    ids=["execute", "execute_one", "execute_scalar", "execute_many", "stream"],
)
def test_a_composed_query_or_row_whose_own_code_fails_is_our_error(
    client: PostgresClient, user: UUID, *, query: Any, params: Any, call: Any
) -> None:
    """Nothing is sent, and nothing raw comes out before the statement is even made."""
    connects = client.stats()["connects"]
    with pytest.raises(PostgresError):
        call(client, query, params, user)

    assert client.execute_scalar("SELECT 1", user_id=user) == 1
    assert client.stats()["connects"] == connects


def test_a_type_that_the_connection_alone_knows_can_be_composed(stack: StackEndpoints) -> None:
    """A literal of it needs the connection that configure= has prepared."""

    class Mood:
        pass

    class MoodDumper(Dumper):
        oid = 25

        def dump(self, obj: Any) -> bytes:
            assert isinstance(obj, Mood)
            return b"fine"

    def configure(conn: psycopg.Connection[Any]) -> None:
        conn.adapters.register_dumper(Mood, MoodDumper)

    query = sql.SQL("SELECT {} AS mood").format(sql.Literal(Mood()))
    with one_session_client(stack, configure=configure) as client:
        assert client.execute(query, user_id=uuid4()) == [{"mood": "fine"}]
        with client.connection(uuid4()) as conn:
            assert conn.execute(query).fetchall() == [{"mood": "fine"}]


def test_a_row_that_would_lose_a_column_is_refused_everywhere(
    client: PostgresClient, user: UUID
) -> None:
    """A dict has one value for each name: in a block, by its iterator, and in a stream as well."""
    query = "SELECT 1 AS id, 2 AS name, 3 AS id"
    with client.connection(user) as conn:
        for read in ("fetchone", "fetchmany", "fetchall", "__next__"):
            with pytest.raises(PostgresError, match=r"two columns of one name \(id\)"):
                getattr(conn.execute(query), read)()
        with pytest.raises(PostgresError, match="two columns of one name"):
            list(conn.cursor().stream(query))
        with pytest.raises(PostgresError, match="two columns of one name"):
            conn.cursor("named").execute(query).fetchall()
        assert conn.cursor(row_factory=tuple_row).execute(query).fetchall() == [(1, 2, 3)]
        assert conn.execute("SELECT 1 AS id").fetchall() == [{"id": 1}]
    with (
        pytest.raises(PostgresError, match="two columns of one name"),
        client.stream(query, user_id=user) as rows,
    ):
        list(rows)


@pytest.mark.parametrize("form", [str, str.encode, sql.SQL])
def test_a_query_with_a_nul_is_refused_and_not_cut(
    client: PostgresClient, user: UUID, form: Any
) -> None:
    """Libpq would send the part before it: a DELETE without its WHERE."""
    add_contact(client, user, "kept")
    with pytest.raises(PostgresError, match="NUL character"):
        client.execute(form("DELETE FROM contacts\0 WHERE name = 'other'"), user_id=user)

    assert contact_names(client, user) == ["kept"]


def test_a_value_that_python_cannot_hold_says_that_the_write_is_done(
    client: PostgresClient, user: UUID
) -> None:
    """The statement was committed when its result turned out unreadable."""
    query = (
        "INSERT INTO contacts (user_id, name, created_at) VALUES (%s, 'far', 'infinity')"
        " RETURNING created_at"
    )
    with pytest.raises(PostgresError, match=r"cannot be read.*was committed") as caught:
        client.execute(query, (user,), user)

    assert isinstance(caught.value.__cause__, psycopg.DataError)
    assert contact_names(client, user) == ["far"]


@pytest.mark.slow
def test_fifty_megabytes_go_both_ways(client: PostgresClient, user: UUID) -> None:
    """A parameter and a result larger than any buffer neither hang nor change."""
    large = "x" * (50 * MEGABYTE)

    assert client.execute_scalar("SELECT length(%s)", (large,), user) == len(large)
    assert client.execute_scalar("SELECT repeat('x', %s)", (len(large),), user) == large


def test_many_rows_come_back_whole(client: PostgresClient, user: UUID) -> None:
    """A hundred thousand rows in one call."""
    rows = client.execute("SELECT g AS n FROM generate_series(1, 100000) g", user_id=user)

    assert [row["n"] for row in rows] == list(range(1, 100001))


def test_a_statement_without_columns_or_without_text(client: PostgresClient, user: UUID) -> None:
    """SELECT alone has one row of nothing; an empty text has no rows."""
    assert client.execute("SELECT", user_id=user) == [{}]
    assert client.execute(" -- nothing\n;", user_id=user) == []


def test_notices_are_not_printed(
    client: PostgresClient, user: UUID, capfd: pytest.CaptureFixture[str]
) -> None:
    """Libpq would write a server's warning to standard error."""
    client.execute("DO $$ BEGIN RAISE WARNING 'loud'; END $$", user_id=user)
    with client.connection(user) as conn:
        conn.execute("DO $$ BEGIN RAISE WARNING 'loud'; END $$")

    assert capfd.readouterr() == ("", "")


def test_statement_timeout_ends_a_statement_and_only_that(
    stack: StackEndpoints, user: UUID
) -> None:
    """57014 alone, in a block and in a batch; the session goes on, and the limit is the same."""
    with one_session_client(stack, statement_timeout=0.2) as client:
        pid = client.execute_scalar("SELECT pg_backend_pid()", user_id=user)
        for call in (
            lambda: client.execute("SELECT pg_sleep(20)", user_id=user),
            lambda: client.execute_many("SELECT pg_sleep(%s)", [(0,), (20,)], user),
            lambda: client.execute_admin("SELECT pg_sleep(20)"),
        ):
            with pytest.raises(PostgresError, match="statement timeout") as caught:
                call()
            assert caught.value.sqlstate == "57014"
        with client.connection(user) as conn:
            with pytest.raises(psycopg.errors.QueryCanceled), conn.transaction():
                conn.execute("SELECT pg_sleep(20)")
            conn.execute("SET statement_timeout = 0")
            conn.execute("SELECT pg_sleep(0.3)")

        show = "SELECT current_setting('statement_timeout')"
        assert client.execute_scalar(show, user_id=user) == "200ms"
        assert client.execute_scalar("SELECT pg_backend_pid()", user_id=user) == pid


def test_statement_timeout_zero_is_no_limit(stack: StackEndpoints, user: UUID) -> None:
    """The server is told 0, whatever its own default is."""
    with PostgresClient(stack.database_url, 1, statement_timeout=0) as client:
        assert client.execute_scalar("SHOW statement_timeout", user_id=user) == "0"
        assert client.execute("SELECT pg_sleep(0.1) IS NULL AS a", user_id=user) == [{"a": False}]


def test_another_client_encoding_works(stack: StackEndpoints, user: UUID) -> None:
    """Names and values are read in the encoding that the URL asks for."""
    url = stack.database_url
    url += ("&" if "?" in url else "?") + "client_encoding=LATIN1"
    with PostgresClient(url, 1) as client:
        assert client.execute("SELECT %s AS \u00e4", ("\u00f6",), user) == [{"\u00e4": "\u00f6"}]

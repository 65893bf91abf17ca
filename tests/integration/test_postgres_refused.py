"""What would reach the server as another statement, or cannot be sent, is refused as itself."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql
from psycopg.types.json import Jsonb

from clients._postgres.statements import refuse_unsendable
from clients.errors import PostgresConnectionError, PostgresError
from tests.postgres_helpers import add_contact, contact_names, one_session_client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from uuid import UUID

    from clients._postgres.guarded import GuardedConnection
    from clients.postgres_client import PostgresClient
    from utils.local_stack import StackEndpoints


@pytest.fixture(scope="module")
def client(stack: StackEndpoints) -> Iterator[PostgresClient]:
    with one_session_client(stack) as made:
        yield made


def in_block(work: Callable[[GuardedConnection, Any, Any], Any]) -> Callable[..., Any]:
    def run(client: PostgresClient, user: UUID, query: Any, params: Any) -> Any:
        with client.connection(user) as conn:
            return work(conn, query, params)

    return run


def read_stream(client: PostgresClient, user: UUID, query: Any, params: Any) -> Any:
    with client.stream(query, params, user_id=user) as rows:
        return list(rows)


def read_copy(conn: GuardedConnection, query: Any, params: Any) -> Any:
    statement = f"COPY ({query}) TO STDOUT" if isinstance(query, str) else query
    with conn.cursor().copy(statement, params) as copy:
        return list(copy.rows())


WAYS: dict[str, Callable[..., Any]] = {
    "execute": lambda client, user, query, params: client.execute(query, params, user),
    "execute_one": lambda client, user, query, params: client.execute_one(query, params, user),
    "execute_scalar": lambda client, user, query, params: client.execute_scalar(
        query, params, user
    ),
    "execute_admin": lambda client, _, query, params: client.execute_admin(query, params),
    "execute_many": lambda client, user, query, params: client.execute_many(query, [params], user),
    "stream": read_stream,
    "joined execute": in_block(lambda conn, query, params: conn.execute(query, params)),
    "cursor": in_block(lambda conn, query, params: conn.cursor().execute(query, params)),
    "named cursor": in_block(lambda conn, query, params: conn.cursor("c").execute(query, params)),
    "executemany": in_block(lambda conn, query, params: conn.cursor().executemany(query, [params])),
    "cursor stream": in_block(
        lambda conn, query, params: list(conn.cursor().stream(query, params))
    ),
    "copy": in_block(read_copy),
}
MISPLACED = {
    "literal": "DELETE FROM contacts WHERE created_at < now() - interval '%s days'",
    "literal behind a doubled quote": "DELETE FROM contacts WHERE name <> 'it''s %s'",
    "escape string": r"DELETE FROM contacts WHERE name <> E'\'%s'",
    "dollar-quoted": "DELETE FROM contacts WHERE name <> $$%s$$",
    "dollar-quoted with a tag": "DELETE FROM contacts WHERE name <> $a$ $$ %s $a$",
    "identifier": 'SELECT name AS "%s" FROM contacts',
    "line comment": "DELETE FROM contacts -- for %s\n",
    "block comment": "DELETE FROM contacts /* /* nested */ %s */",
    "a name": "SELECT name AS x%s FROM contacts",
    "behind a comment with a quote": "DELETE FROM contacts /* it's */ WHERE name <> '%s'",
    "bytes": b"DELETE FROM contacts WHERE name <> '%s'",
    "composed": sql.SQL("DELETE FROM contacts WHERE name <> {}").format(sql.Literal("%s")),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("query", MISPLACED.values(), ids=MISPLACED)
def test_a_placeholder_that_is_no_parameter_is_refused(
    client: PostgresClient, user: UUID, way: str, query: Any
) -> None:
    """Psycopg would make it the text $1: another value, and here other rows, without an error."""
    add_contact(client, user, "kept")

    with pytest.raises(PostgresError, match=r"placeholder %s in line 1 stands .*(%%|Identifier)"):
        WAYS[way](client, user, query, ("30",))

    assert contact_names(client, user) == ["kept"]


def test_the_fix_is_in_the_message(client: PostgresClient, user: UUID) -> None:
    """Both forms that it names do what was meant."""
    query = "SELECT interval '%(days)s days' AS i"
    with pytest.raises(PostgresError) as caught:
        client.execute(query, {"days": 30}, user)

    assert "%(days)s" in str(caught.value)
    for fix in ("make_interval(days => %s)", "%s * interval '1 day'"):
        assert fix in str(caught.value)
        assert client.execute_scalar(f"SELECT {fix} = interval '30 days'", (30,), user) is True


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELECT '%%s' || %s", "%sx"),
        ("SELECT 'a''b' || %s", "a'bx"),
        (r"SELECT '\' || %s", "\\x"),
        ("SELECT /* '100%%' */ %s -- it's", "x"),
        ("SELECT /* it's */ %s -- it's\n || ''", "x"),
        ('SELECT %s AS "a%%"', "x"),
        ("SELECT a$$b FROM (SELECT %s AS a$$b) AS t", "x"),
        ("SELECT %s::text LIKE '%%x%%' AND 'b' = $$b$$", True),
    ],
)
def test_a_placeholder_outside_of_quotes_is_a_parameter(
    client: PostgresClient, user: UUID, query: str, expected: object
) -> None:
    """Whatever stands in quotes beside it, and with the percent signs doubled."""
    assert client.execute_scalar(query, ("x",), user) == expected


def test_without_parameters_a_percent_sign_is_one_everywhere(
    client: PostgresClient, user: UUID
) -> None:
    """Nothing is replaced, and nothing is refused."""
    assert client.execute_scalar("SELECT '%s days' -- %s", user_id=user) == "%s days"
    with client.connection(user) as conn:
        assert conn.execute("SELECT $$%s$$ AS a").fetchone() == {"a": "%s"}


PARTS = st.sampled_from(
    [
        "%s",
        "%s",
        "'",
        "''",
        '"',
        "$$",
        "$a$",
        "E'",
        "\\'",
        "--",
        "\n",
        "/*",
        "*/",
        "x",
        " ",
        ",",
        "é",
    ]
)


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(parts=st.lists(PARTS, max_size=12))
def test_refused_is_what_the_server_does_not_take_for_a_parameter(
    client: PostgresClient, user: UUID, parts: list[str]
) -> None:
    """The server's own lexer judges, wherever the whole text is a statement to it."""
    query = "SELECT " + "".join(parts)
    count = query.count("%s")
    converted = query
    for number in range(1, count + 1):
        converted = converted.replace("%s", f"${number}", 1)
    try:
        refuse_unsendable(query, ["x"] * count, "execute()")
        is_refused = False
    except PostgresError:
        is_refused = True
    with client.connection(user) as conn:
        pgconn = conn._use.state.session.pgconn
        pgconn.exec_(b"SAVEPOINT one")
        prepared = pgconn.prepare(b"", converted.encode())
        if prepared.status == psycopg.pq.ExecStatus.COMMAND_OK:
            assert is_refused == (pgconn.describe_prepared(b"").nparams != count)
        pgconn.exec_(b"ROLLBACK TO one")


class ArrayLike:
    """No sequence to Python, with a length and no truth, as an array of numpy has them."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        return index

    def __bool__(self) -> bool:
        raise ValueError("the truth value of an array is ambiguous")


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


UNSENDABLE: dict[str, tuple[str, Any, str]] = {
    "too many parameters": ("SELECT 1", None, "65536 parameters, and the protocol takes 65535"),
    "text that UTF-8 cannot encode": ("SELECT %s", ("\ud800",), "UnicodeEncodeError"),
    "a query that UTF-8 cannot encode": ("SELECT '\ud800', %s", (1,), "UnicodeEncodeError"),
    "a number": ("SELECT %s", 5, r"are int: .*\(value,\)"),
    "a text": ("SELECT %s", "x", r"are str: .*\(value,\)"),
    "a set": ("SELECT %s", {1}, "are set: they must be a sequence"),
    "an array that is no sequence": (
        "SELECT %s",
        ArrayLike(),
        "are ArrayLike: they must be a sequence",
    ),
    "nested too deep": ("SELECT %s", (Jsonb(nested(100_000)),), "nested too deep"),
    "a type that cannot be adapted": ("SELECT %s", (array("i"),), "cannot adapt"),
}


@pytest.mark.parametrize("way", [way for way in WAYS if way != "named cursor"])
@pytest.mark.parametrize("kind", UNSENDABLE)
def test_what_cannot_be_sent_is_told_as_itself_and_costs_no_connection(
    client: PostgresClient, user: UUID, kind: str, way: str
) -> None:
    """Nothing is sent, nothing "may have taken effect", and the same session serves the next."""
    query, params, words = UNSENDABLE[kind]
    if params is None:
        query = f"SELECT {','.join(['%s'] * 65_536)}"
        params = [1] * 65_536
    before = client.execute_scalar("SELECT pg_backend_pid()", user_id=user)

    with pytest.raises((PostgresError, psycopg.ProgrammingError), match=words) as caught:
        WAYS[way](client, user, query, params)

    if isinstance(caught.value, PostgresError):
        assert caught.value.maybe_applied is False
        assert "may or may not" not in str(caught.value)
    assert not isinstance(caught.value, PostgresConnectionError | psycopg.OperationalError)
    assert client.execute_scalar("SELECT pg_backend_pid()", user_id=user) == before


def test_a_bad_row_late_in_execute_many_undoes_all_and_keeps_the_connection(
    client: PostgresClient, user: UUID
) -> None:
    """Also behind batches that the server has taken already."""
    before = client.execute_scalar("SELECT pg_backend_pid()", user_id=user)
    for bad in (5, 1500, 2500):
        rows = [(user, "row" if number != bad else "\ud800") for number in range(3000)]
        with pytest.raises(PostgresError, match="UnicodeEncodeError") as caught:
            client.execute_many("INSERT INTO contacts (user_id, name) VALUES (%s, %s)", rows, user)

        assert caught.value.maybe_applied is False
        assert contact_names(client, user) == []
        assert client.execute_scalar("SELECT pg_backend_pid()", user_id=user) == before


def test_the_callers_rows_and_row_factories_raise_their_own_errors(
    client: PostgresClient, user: UUID
) -> None:
    """In a block, what the caller's own code raises comes out unchanged."""

    def rows() -> Iterator[tuple[UUID, str]]:
        yield (user, "first")
        raise LookupError("the caller's")

    def factory(_: object) -> Callable[[Any], Any]:
        def make(values: Any) -> Any:
            raise LookupError(values)

        return make

    with client.connection(user) as conn:
        with pytest.raises(LookupError, match="the caller's"):
            conn.cursor().executemany(
                "INSERT INTO contacts (user_id, name) VALUES (%s, %s)", rows()
            )
        with pytest.raises(LookupError):
            conn.cursor(row_factory=factory).execute("SELECT 1").fetchone()


UNUSABLE: dict[str, Callable[[GuardedConnection], object]] = {
    "scroll by a text": lambda conn: conn.execute("SELECT 1").scroll("x"),  # type: ignore[arg-type]  # unusable
    "scroll in an unknown way": lambda conn: conn.execute("SELECT 1").scroll(0, "sideways"),
    "a type that copy does not know": lambda conn: set_types(conn, ["no_such_type"]),
    "types of copy that are none": lambda conn: set_types(conn, 5),
    "a savepoint without a name's type": lambda conn: enter(conn.transaction(5)),  # type: ignore[arg-type]  # unusable
    "a savepoint that UTF-8 cannot encode": lambda conn: enter(conn.transaction("\ud800")),
    "a cursor that UTF-8 cannot encode": lambda conn: conn.cursor("\ud800").execute("SELECT 1"),
}


def set_types(conn: GuardedConnection, types: Any) -> None:
    with conn.cursor().copy("COPY (SELECT 1) TO STDOUT") as copy:
        try:
            copy.set_types(types)
        finally:
            list(copy)


def enter(block: AbstractContextManager[object]) -> None:
    with block:
        pass


@pytest.mark.parametrize("kind", UNUSABLE)
def test_an_unusable_argument_in_a_block_is_refused_as_ours(
    client: PostgresClient, user: UUID, kind: str
) -> None:
    """Never with a bare error of Python's, and the block goes on."""
    with client.connection(user) as conn:
        with pytest.raises((PostgresError, psycopg.Error)):
            UNUSABLE[kind](conn)
        assert conn.execute("SELECT 1 AS one").fetchall() == [{"one": 1}]


UNREADABLE = {
    "a date of another style": "SELECT set_config('datestyle', 'German', true), now() AS a",
    "an infinite timestamp": "SELECT 'infinity'::timestamp AS a",
    "a year beyond Python's": "SELECT 'Jan 1 10000'::timestamptz AS a",
    "a date before our era": "SELECT '0044-03-15 BC'::date AS a",
    "a range of such": "SELECT '[2000-01-01,infinity]'::tsrange AS a",
    "an array of such": "SELECT ARRAY['infinity'::timestamp] AS a",
    "json that is nested too deep": "SELECT (repeat('[', 5000) || repeat(']', 5000))::json AS a",
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_value_that_python_cannot_hold_is_our_error_that_says_it_is_committed(
    client: PostgresClient, user: UUID, kind: str
) -> None:
    """The row is stored when its reply is read; the same session serves the next call."""
    insert = (
        "WITH made AS (INSERT INTO contacts (user_id, name) VALUES (%s, 'stored')) "
        f"{UNREADABLE[kind]}"
    )
    before = client.execute_scalar("SELECT pg_backend_pid()", user_id=user)

    with pytest.raises(PostgresError, match="committed") as caught:
        client.execute(insert, (user,), user)

    assert caught.value.maybe_applied is True
    assert contact_names(client, user) == ["stored"]
    assert client.execute_scalar("SELECT pg_backend_pid()", user_id=user) == before

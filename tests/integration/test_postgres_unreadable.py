"""Values of PostgreSQL that Python cannot hold: our error, and the truth about the write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import class_row, namedtuple_row, scalar_row

from clients.errors import ClientError, PostgresError
from clients.postgres_client import PostgresClient
from tests.postgres_helpers import contact_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from utils.local_stack import StackEndpoints

NUMBERS = st.integers(1, 9999)
YEARS_BC = NUMBERS.map(lambda year: f"{year:04}-02-03 BC")
LATE_YEARS = st.integers(10_000, 290_000).map(lambda year: f"{year}-02-03")
ENDLESS = st.sampled_from(["infinity", "-infinity"])
DATES = ENDLESS | YEARS_BC | LATE_YEARS
NESTED = st.integers(3000, 6000)
_TIMES = {"date": DATES, "timestamp": DATES, "timestamptz": DATES}
# Each is read in vain, as psycopg's own types go.
UNREADABLE = st.one_of(
    *(st.tuples(st.just(kind), texts) for kind, texts in _TIMES.items()),
    st.tuples(st.just("time"), st.just("24:00")),
    st.tuples(st.just("timetz"), st.sampled_from(["24:00+00", "24:00-05:30"])),
    st.tuples(st.just("interval"), st.integers(10**9, 2**31 - 1).map(lambda days: f"{days} days")),
    st.tuples(
        st.sampled_from(["json", "jsonb"]),
        NESTED.map(lambda depth: "[" * depth + "]" * depth)
        | NESTED.map(lambda depth: '{"a":' * depth + "1" + "}" * depth)
        | st.integers(4301, 6000).map(lambda digits: "1" * digits),
    ),
)
_RANGES = {"date": "daterange", "timestamp": "tsrange", "timestamptz": "tstzrange"}


@st.composite
def expressions(draw: st.DrawFn) -> str:
    """SQL for a value that cannot be read: bare, in arrays, ranges, and arrays of those."""
    kind, text = draw(UNREADABLE)
    expression = f"'{text}'::{kind}"
    if kind in _RANGES and text not in {"infinity", "-infinity"} and draw(st.booleans()):
        expression = f"{_RANGES[kind]}({expression}, NULL)"
        if draw(st.booleans()):
            multirange = _RANGES[kind].replace("range", "multirange")
            expression = f"{multirange}({expression})"
    for _ in range(draw(st.integers(0, 2))):
        expression = f"ARRAY[{expression}]"
    return expression


@dataclass
class Row:
    """A row of one value."""

    value: Any


def of_a_block(client: PostgresClient, user: UUID, query: str, *, binary: bool) -> None:
    with client.connection(user) as conn:
        cursor = conn.execute(query, (user,), binary=binary)
        try:
            list(cursor)
        finally:
            # The block goes on, whatever its last result was.
            conn.execute("SELECT 1").fetchone()


def joined(client: PostgresClient, user: UUID, query: str) -> None:
    with client.connection(user):
        client.execute(query, (user,), user)


def streamed(client: PostgresClient, user: UUID, query: str) -> None:
    with client.connection(user) as conn:
        list(conn.cursor().stream(query, (user,)))


def made_by(factory: Any) -> Callable[[PostgresClient, UUID, str], object]:
    """Read in a block, where a row factory makes the rows."""

    def read(client: PostgresClient, user: UUID, query: str) -> None:
        with client.connection(user) as conn:
            conn.cursor(row_factory=factory).execute(query, (user,)).fetchall()

    return read


WAYS: dict[str, Callable[[PostgresClient, UUID, str], object]] = {
    "execute": lambda client, user, query: client.execute(query, (user,), user),
    "execute_one": lambda client, user, query: client.execute_one(query, (user,), user),
    "execute_scalar": lambda client, user, query: client.execute_scalar(query, (user,), user),
    "typed": lambda client, user, query: client.execute(query, (user,), user, row_type=Row),
    "expected": lambda client, user, query: client.execute(query, (user,), user, expect=1),
    "transaction": lambda client, user, query: client.run_transaction(
        lambda conn: conn.execute(query, (user,)).fetchall(), user
    ),
    "block": lambda client, user, query: of_a_block(client, user, query, binary=False),
    "binary": lambda client, user, query: of_a_block(client, user, query, binary=True),
    "joined": joined,
    "streamed": streamed,
    "named tuples": made_by(namedtuple_row),
    "objects": made_by(class_row(Row)),
    "scalars": made_by(scalar_row),
}


IN_BLOCKS = {
    *("transaction", "block", "binary", "streamed"),
    *("named tuples", "objects", "scalars"),
}


@pytest.fixture(scope="module", params=["ISO", "German"])
def client(stack: StackEndpoints, request: pytest.FixtureRequest) -> Iterator[PostgresClient]:
    """A client of one session, whose server writes dates in one style or another."""
    url = stack.database_url
    url += ("&" if "?" in url else "?") + f"options=-c%20DateStyle%3D{request.param}"
    with PostgresClient(url, pool_size=1, min_size=1) as made:
        yield made


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(expression=expressions(), way=st.sampled_from(sorted(WAYS)))
def test_a_value_that_python_cannot_hold_is_told_truly(
    client: PostgresClient, expression: str, way: str
) -> None:
    """By every way, of every type: never a bare exception, a false outcome, or a dirty session."""
    user = uuid4()
    query = (
        f"INSERT INTO contacts (user_id, name) VALUES (%s, 'written') RETURNING {expression} "
        "AS value"
    )
    before = client.stats()["connects"]
    outcome: Exception | None = None
    try:
        WAYS[way](client, user, query)
    except ClientError as error:
        outcome = error
    except psycopg.Error as error:
        outcome = error
    # In a block, psycopg's own errors are the caller's.
    in_block = way not in {
        "execute",
        "execute_one",
        "execute_scalar",
        "typed",
        "expected",
        "joined",
    }
    assert in_block or not isinstance(outcome, psycopg.Error), outcome

    was_written = contact_names(client, user) == ["written"]
    if outcome is None:
        # The binary forms of times know no style, and a range of some is read as text.
        assert was_written
    else:
        assert was_written == getattr(outcome, "maybe_applied", False), outcome
    assert client.stats()["connects"] == before
    assert client.execute_scalar("SELECT 1", user_id=user) == 1


@pytest.mark.parametrize(
    "expression", ["'infinity'::date", "'24:00'::time", "'1e9 days'::interval"]
)
def test_a_stream_that_meets_one_fails_with_our_error(
    client: PostgresClient, expression: str
) -> None:
    """The rows before it are there, and the next call is served."""
    query = f"SELECT g, CASE WHEN g > 3 THEN {expression} END AS v FROM generate_series(1, 5) g"
    user, seen = uuid4(), []
    with (
        pytest.raises(PostgresError, match=r"stream\(\) failed|cannot be read"),
        client.stream(query, user_id=user, batch_size=2) as rows,
    ):
        seen += [row["g"] for row in rows]

    assert client.stats()["in_use"] == 0
    assert client.execute_scalar("SELECT 1", user_id=user) == 1

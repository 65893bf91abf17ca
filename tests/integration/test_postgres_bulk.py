"""execute_many() and stream(): many rows, all or nothing, in bounded memory."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import psycopg
import pytest

from clients.errors import ConfigurationError, PostgresError
from tests.postgres_helpers import add_contact, contact_names, one_session_client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clients.postgres_client import PostgresClient
    from utils.local_stack import StackEndpoints

INSERT = "INSERT INTO contacts (user_id, name, email) VALUES (%s, %s, %s)"
COUNT = "SELECT count(*) FROM contacts"


@pytest.fixture(scope="module")
def client(stack: StackEndpoints) -> Iterator[PostgresClient]:
    with one_session_client(stack) as made:
        yield made


def people(user: UUID, count: int) -> Iterator[tuple[UUID, str, str | None]]:
    """Yield rows whose types change from one to the next."""
    return ((user, f"n{i}", None if i % 3 else f"{i}@example.org") for i in range(count))


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 2500])
@pytest.mark.parametrize("in_block", [False, True])
def test_all_rows_of_a_generator_are_written_and_counted(
    client: PostgresClient, user: UUID, count: int, *, in_block: bool
) -> None:
    """Also at the edges of a batch; in a block they are a part of it."""
    if in_block:
        with client.connection(user):
            changed = client.execute_many(INSERT, people(user, count), user)
    else:
        changed = client.execute_many(INSERT, people(user, count), user)

    assert changed == count
    assert client.execute_scalar(COUNT, user_id=user) == count
    assert client.execute_scalar(f"{COUNT} WHERE email IS NULL", user_id=user) == count * 2 // 3


@pytest.mark.parametrize("bad_row", [0, 500, 1000, 2499])
def test_an_error_in_any_row_commits_none(client: PostgresClient, bad_row: int) -> None:
    """The policy refuses one row of 2,500: no other is written, and the session goes on."""
    user, other = uuid4(), uuid4()
    pid = client.execute_scalar("SELECT pg_backend_pid()", user_id=user)
    rows = [(other if i == bad_row else user, f"n{i}", None) for i in range(2500)]

    with pytest.raises(PostgresError, match="row-level security") as caught:
        client.execute_many(INSERT, rows, user)

    assert caught.value.sqlstate == "42501"
    assert client.execute_scalar(COUNT, user_id=user) == 0
    assert client.execute_scalar("SELECT pg_backend_pid()", user_id=user) == pid


@pytest.mark.parametrize("bad_row", [(1,), 5, ("\ud800", "a", "b"), (object(), "a", "b")])
@pytest.mark.parametrize("before", [1, 1500])
def test_a_row_that_cannot_be_sent_commits_none(
    client: PostgresClient, user: UUID, bad_row: Any, before: int
) -> None:
    """It is our error, whichever row it is."""

    def rows() -> Iterator[Any]:
        yield from people(user, before)
        yield bad_row

    with pytest.raises(PostgresError, match=r"execute_many\(\) failed"):
        client.execute_many(INSERT, rows(), user)
    assert client.execute_scalar(COUNT, user_id=user) == 0


@pytest.mark.parametrize("before", [0, 10, 1500])
@pytest.mark.parametrize("error", [KeyError("mine"), TypeError("mine"), KeyboardInterrupt()])
def test_an_iterator_that_raises_commits_none_and_its_error_comes_out(
    client: PostgresClient, user: UUID, before: int, error: BaseException
) -> None:
    """The caller's own exception, the very object, and no lost connection of the pool."""

    def rows() -> Iterator[Any]:
        yield from people(user, before)
        raise error

    with pytest.raises(type(error)) as caught:
        client.execute_many(INSERT, rows(), user)

    assert caught.value is error
    assert client.stats()["in_use"] == 0
    assert client.execute_scalar(COUNT, user_id=user) == 0


def test_rows_can_be_mappings(client: PostgresClient, user: UUID) -> None:
    """Named placeholders take a dict for each row."""
    query = "INSERT INTO contacts (user_id, name) VALUES (%(u)s, %(n)s)"

    assert client.execute_many(query, [{"n": "a", "u": user}, {"u": user, "n": "b"}], user) == 2
    assert contact_names(client, user) == ["a", "b"]


def test_rows_can_be_empty(client: PostgresClient, user: UUID) -> None:
    """A statement without placeholders runs once for each row, with its % literal."""
    query = (
        "INSERT INTO contacts (user_id, name)"
        " SELECT current_setting('app.current_user_id')::uuid, '100%'"
    )

    assert client.execute_many(query, [(), (), ()], user) == 3
    assert contact_names(client, user) == ["100%"] * 3
    with pytest.raises(PostgresError, match="later one has"):
        client.execute_many(query, [(), (1,)], user)


def test_a_deferred_check_at_the_commit_commits_none(client: PostgresClient, user: UUID) -> None:
    """An UPDATE and a DELETE count what they change."""
    client.execute_many(INSERT, people(user, 10), user)
    update = "UPDATE contacts SET email = 'x' WHERE name = %s"

    assert client.execute_many(update, [("n1",), ("n2",), ("no one",)], user) == 2
    assert client.execute_many("DELETE FROM contacts WHERE name <> %s", [("n1",)], user) == 9


@pytest.mark.slow
def test_a_large_stream_is_read_in_bounded_memory(client: PostgresClient, user: UUID) -> None:
    """A hundred thousand rows of 100 bytes take a fraction of their size."""
    query = "SELECT g AS n, repeat('x', 100) AS pad FROM generate_series(1, 100000) g"
    tracemalloc.start()
    try:
        with client.stream(query, user_id=user, batch_size=500) as rows:
            total = sum(row["n"] for row in rows)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert total == 100000 * 100001 // 2
    assert peak < 3 * (1 << 20)


def test_a_stream_is_filtered_and_takes_parameters(client: PostgresClient, user: UUID) -> None:
    """One user's rows, as dicts, and % is literal without parameters."""
    add_contact(client, user, "a")
    add_contact(client, user, "b")
    add_contact(client, uuid4(), "foreign")
    with client.stream("SELECT name FROM contacts ORDER BY 1", user_id=user) as rows:
        assert list(rows) == [{"name": "a"}, {"name": "b"}]
    with client.stream("SELECT name FROM contacts WHERE name = %s", ["b"], user_id=user) as rows:
        assert list(rows) == [{"name": "b"}]
    with client.stream("SELECT name FROM contacts WHERE name LIKE 'a%'", user_id=user) as rows:
        assert list(rows) == [{"name": "a"}]


def test_rows_of_a_stream_are_dead_after_its_block(client: PostgresClient, user: UUID) -> None:
    """Also those that had been fetched already."""
    with client.stream("SELECT g FROM generate_series(1, 10) g", user_id=user) as rows:
        assert next(rows) == {"g": 1}
    with pytest.raises(PostgresError, match="has ended"):
        next(rows)


def test_streams_can_be_nested_and_join_a_block(client: PostgresClient, user: UUID) -> None:
    """Two server-side cursors on one session do not mix; the block's writes are seen."""
    query = "SELECT name FROM contacts ORDER BY name"
    with client.connection(user):
        add_contact(client, user, "a")
        add_contact(client, user, "b")
        with client.stream(query, user_id=user, batch_size=1) as outer:
            pairs = []
            for row in outer:
                with client.stream(query, user_id=user, batch_size=1) as inner:
                    pairs += [(row["name"], other["name"]) for other in inner]

    assert pairs == [("a", "a"), ("a", "b"), ("b", "a"), ("b", "b")]


def test_what_is_written_while_a_stream_is_read_stays_when_it_is_left_early(
    client: PostgresClient, user: UUID
) -> None:
    """A generator over stream() that its loop leaves loses nothing that execute() has done."""

    def numbers() -> Iterator[int]:
        with client.stream("SELECT g FROM generate_series(1, 10) g", user_id=user) as rows:
            for row in rows:
                yield row["g"]

    for number in numbers():
        add_contact(client, user, f"saw {number}")
        if number == 2:
            break

    assert contact_names(client, user) == ["saw 1", "saw 2"]


def test_an_exception_in_a_stream_comes_out_and_frees_the_session(
    client: PostgresClient, user: UUID
) -> None:
    """The caller's error is not covered, and the next call is served."""
    with pytest.raises(KeyError), client.stream("SELECT 1", user_id=user):
        raise KeyError

    assert client.stats()["in_use"] == 0
    assert client.execute_scalar("SELECT 1", user_id=user) == 1


@pytest.mark.parametrize("query", ["SELECT 1/0 AS a", "SELEC 1", "COMMIT", "SELECT 1; SELECT 2"])
def test_a_stream_that_fails_raises_our_error(
    client: PostgresClient, user: UUID, query: str
) -> None:
    """When it opens or when it is read, and never psycopg's."""

    def read() -> None:
        with client.stream(query, user_id=user) as rows:
            list(rows)

    with pytest.raises(PostgresError, match=r"stream\(\) failed") as caught:
        read()
    assert isinstance(caught.value.__cause__, psycopg.Error)


@pytest.mark.parametrize("size", [0, -1, True, 1.5, "10", None, 2**31])
def test_an_unusable_batch_size_is_refused(client: PostgresClient, size: Any) -> None:
    """It is an integer of one or more, and one that FETCH takes."""
    with pytest.raises(ConfigurationError, match="batch_size"):
        client.stream("SELECT 1", user_id=uuid4(), batch_size=size)

"""bulk_insert(): COPY in front of policies that check every row."""

from __future__ import annotations

import time
import tracemalloc
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from clients import PostgresClient, PostgresConfigurationError, PostgresError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.pgbouncer_server import PgBouncerServer
    from utils._stack.postgres import PostgresServer

ADA, BOB = UUID(int=1, version=4), UUID(int=2, version=4)
TABLE = """
DROP TABLE IF EXISTS "Bulk Rows";
CREATE TABLE "Bulk Rows" (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id  uuid NOT NULL,
    "the key" text NOT NULL UNIQUE CHECK (length("the key") < 20),
    amount   numeric(10, 2) NOT NULL DEFAULT 7,
    tags     text[],
    payload  jsonb,
    doubled  numeric GENERATED ALWAYS AS (amount * 2) STORED
);
ALTER TABLE "Bulk Rows" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "Bulk Rows" FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON "Bulk Rows"
    USING (user_id = (SELECT NULLIF(current_setting('app.current_user_id', true), '')::uuid));
GRANT SELECT, INSERT, UPDATE, DELETE ON "Bulk Rows" TO crm_user, crm_admin;
"""
COLUMNS = ("user_id", "the key")
SLOW_INSERT = """
CREATE OR REPLACE FUNCTION wait_long() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN PERFORM pg_sleep(60); RETURN NEW; END';
CREATE TRIGGER slow BEFORE INSERT ON "Bulk Rows" FOR EACH ROW EXECUTE FUNCTION wait_long();
"""


@pytest.fixture
def db(own_postgres: PostgresServer) -> Iterator[PostgresClient]:
    """A client and an empty table of a peculiar name."""
    with psycopg.connect(own_postgres.url(), autocommit=True) as conn:
        conn.execute(TABLE)
    with PostgresClient(
        own_postgres.url("crm_user", "secret"),
        3,
        admin_url=own_postgres.url("crm_admin", "secret"),
    ) as client:
        yield client
    with psycopg.connect(own_postgres.url(), autocommit=True) as conn:
        conn.execute('DROP TABLE "Bulk Rows"; DROP FUNCTION IF EXISTS wait_long()')


def keys(db: PostgresClient) -> list[Any]:
    """Return what is stored, whoever it belongs to."""
    rows = db.execute_admin('SELECT "the key" AS key FROM "Bulk Rows" ORDER BY id')
    return [row["key"] for row in rows]


def test_rows_are_stored_with_defaults_and_generated_columns(db: PostgresClient) -> None:
    """What is not named gets its default, of every kind."""
    stored = db.bulk_insert("Bulk Rows", COLUMNS, ((ADA, f"k{n}") for n in range(2500)), ADA)

    row = db.execute_one(
        'SELECT count(*) AS n, min(id) AS first, max(doubled) AS doubled FROM "Bulk Rows"', (), ADA
    )
    assert stored == 2500
    assert row == {"n": 2500, "first": 1, "doubled": 14}


def test_values_of_every_kind_arrive_as_they_are(db: PostgresClient) -> None:
    """Arrays, JSON, quotes, tabs, backslashes and nulls."""
    odd = 'a\t"b"\\N\n'
    columns = (*COLUMNS, "tags", "payload")
    value = Jsonb({"x": [1, odd]})

    db.bulk_insert("public.Bulk Rows", columns, [(ADA, odd, [odd, "c"], value)], ADA)

    row = db.execute_one('SELECT "the key" AS key, tags, payload FROM "Bulk Rows"', (), ADA)
    assert row == {"key": odd, "tags": [odd, "c"], "payload": {"x": [1, odd]}}


@pytest.mark.parametrize("at", [0, 1, 499])
def test_one_row_of_somebody_else_stores_nothing(db: PostgresClient, at: int) -> None:
    """The policy checks every row, and the error says that it was the policy."""
    rows = [(BOB if n == at else ADA, f"k{n}") for n in range(500)]

    with pytest.raises(PostgresError) as caught:
        db.bulk_insert("Bulk Rows", COLUMNS, rows, ADA)

    assert (caught.value.sqlstate, caught.value.table) == ("42501", "Bulk Rows")
    assert keys(db) == []


def test_a_violated_constraint_is_named(db: PostgresClient) -> None:
    """By constraint and table, and nothing is stored."""
    with pytest.raises(PostgresError) as caught:
        db.bulk_insert("Bulk Rows", COLUMNS, [(ADA, "ok"), (ADA, "x" * 30)], ADA)

    assert (caught.value.sqlstate, caught.value.table) == ("23514", "Bulk Rows")
    assert caught.value.constraint == "Bulk Rows_the key_check"
    assert keys(db) == []


def test_rows_that_are_there_already_are_refused_left_or_updated(db: PostgresClient) -> None:
    """As on_conflict says."""
    columns = (*COLUMNS, "amount")
    db.bulk_insert("Bulk Rows", columns, [(ADA, "a", 1)], ADA)

    with pytest.raises(PostgresError) as caught:
        db.bulk_insert("Bulk Rows", columns, [(ADA, "b", 2), (ADA, "a", 3)], ADA)
    left = db.bulk_insert(
        "Bulk Rows", columns, [(ADA, "b", 2), (ADA, "a", 3)], ADA, on_conflict="nothing"
    )
    updated = db.bulk_insert(
        "Bulk Rows", columns, [(ADA, "c", 2), (ADA, "a", 3)], ADA, on_conflict=["the key"]
    )

    amounts = db.execute('SELECT amount FROM "Bulk Rows" WHERE "the key" = %s', ("a",), ADA)
    assert (caught.value.sqlstate, left, updated) == ("23505", 1, 2)
    assert (keys(db), amounts) == (["a", "b", "c"], [{"amount": 3}])


def test_it_is_a_savepoint_of_an_open_block(db: PostgresClient) -> None:
    """Several of them in one transaction; one that fails undoes itself alone."""
    with db.connection(ADA) as conn:
        db.bulk_insert("Bulk Rows", COLUMNS, [(ADA, "a")], ADA)
        with pytest.raises(PostgresError):
            db.bulk_insert("Bulk Rows", COLUMNS, [(BOB, "b")], ADA)
        db.bulk_insert("Bulk Rows", COLUMNS, [(ADA, "c")], ADA)
        tables = conn.execute("SELECT count(*) AS n FROM pg_class WHERE relpersistence = 't'")
        assert tables.fetchone() == {"n": 0}

    assert keys(db) == ["a", "c"]


@pytest.mark.parametrize(
    ("table", "columns", "rows", "words"),
    [
        ("nothing", COLUMNS, [], "no table"),
        ('x"; DROP TABLE contacts; --', COLUMNS, [], "no table"),
        ("Bulk Rows", ("user_id", "none"), [], "no column 'none'"),
        ("Bulk Rows", COLUMNS, [(ADA, "a"), (ADA,)], "row 2"),
        ("Bulk Rows", COLUMNS, [(ADA, "a"), "ab"], "row 2"),
        # Its keys are no values, and a set has no order.
        ("Bulk Rows", COLUMNS, [(ADA, "a"), {"user_id": ADA, "the key": "b"}], "row 2"),
        ("Bulk Rows", COLUMNS, [{ADA, "a"}], "row 1"),
        ("Bulk Rows", COLUMNS, [(ADA, object())], "object"),
        ("Bulk Rows", COLUMNS, [(ADA, "nul\0")], ""),
        ("Bulk Rows", (*COLUMNS, "amount"), [(ADA, "a", "much")], ""),
        ("Bulk Rows", ("user_id", "doubled"), [(ADA, 1)], ""),
    ],
)
def test_what_cannot_be_stored_is_our_error_and_stores_nothing(
    db: PostgresClient, table: str, columns: Any, rows: Any, words: str
) -> None:
    """The connection serves the next call."""
    connects = db.stats()["connects"]

    with pytest.raises(PostgresError) as caught:
        db.bulk_insert(table, columns, rows, ADA)

    assert words in str(caught.value)
    assert keys(db) == []
    assert db.execute("SELECT 1 AS one", (), ADA) == [{"one": 1}]
    assert db.stats()["connects"] == connects


@pytest.mark.parametrize(
    ("table", "columns", "on_conflict"),
    [
        ("", COLUMNS, None),
        (7, COLUMNS, None),
        ("Bulk Rows", (), None),
        ("Bulk Rows", "user_id", None),
        ("Bulk Rows", ("user_id", "user_id"), None),
        ("Bulk Rows", COLUMNS, "update"),
        ("Bulk Rows", COLUMNS, ["other"]),
        ("Bulk Rows", 7, None),
        ("Bulk Rows", set(COLUMNS), None),
        ("Bulk Rows", COLUMNS, 7),
        ("Bulk Rows", COLUMNS, [["user_id"]]),
    ],
)
def test_an_unusable_argument_is_refused_before_a_connection_is_taken(
    db: PostgresClient, table: Any, columns: Any, on_conflict: Any
) -> None:
    """By name."""
    before = db.stats()["checkouts"]

    with pytest.raises(PostgresConfigurationError):
        db.bulk_insert(table, columns, [], ADA, on_conflict=on_conflict)

    assert db.stats()["checkouts"] == before


def test_a_role_without_temporary_tables_is_told_what_it_needs(
    db: PostgresClient, own_postgres: PostgresServer
) -> None:
    """The right, and by whose refusal."""
    with psycopg.connect(own_postgres.url(), autocommit=True) as conn:
        conn.execute("REVOKE TEMPORARY ON DATABASE crm FROM PUBLIC")
        try:
            with pytest.raises(PostgresError, match="GRANT TEMPORARY") as caught:
                db.bulk_insert("Bulk Rows", COLUMNS, [(ADA, "a")], ADA)
        finally:
            conn.execute("GRANT TEMPORARY ON DATABASE crm TO PUBLIC")

    assert caught.value.sqlstate == "42501"
    assert db.bulk_insert("Bulk Rows", COLUMNS, [(ADA, "a")], ADA) == 1


def test_rows_may_take_longer_to_come_than_a_statement_may_run(
    db: PostgresClient, own_postgres: PostgresServer
) -> None:
    """The server waits for the caller then; its own work keeps the limit, in the block as well."""

    def slow() -> Iterator[tuple[UUID, str]]:
        yield ADA, "a"
        time.sleep(0.4)
        yield ADA, "b"

    with PostgresClient(own_postgres.url("crm_user", "secret"), 1, statement_timeout=0.2) as quick:
        stored = quick.bulk_insert("Bulk Rows", COLUMNS, slow(), ADA)
        with quick.connection(ADA) as conn:
            conn.execute("SET LOCAL statement_timeout = '170ms'")
            quick.bulk_insert("Bulk Rows", COLUMNS, [(ADA, "c")], ADA)
            limit = conn.execute("SHOW statement_timeout").fetchone()
        with psycopg.connect(own_postgres.url(), autocommit=True) as owner:
            owner.execute(SLOW_INSERT)
        with pytest.raises(PostgresError) as caught:
            quick.bulk_insert("Bulk Rows", COLUMNS, [(ADA, "d")], ADA)

    assert (stored, limit) == (2, {"statement_timeout": "170ms"})
    assert caught.value.sqlstate == "57014"
    assert keys(db) == ["a", "b", "c"]


def test_what_the_callers_rows_raise_comes_out(db: PostgresClient) -> None:
    """The same error, and nothing is stored."""
    failure = LookupError("mine")

    def rows() -> Iterator[tuple[UUID, str]]:
        yield ADA, "a"
        raise failure

    with pytest.raises(LookupError) as caught:
        db.bulk_insert("Bulk Rows", COLUMNS, rows(), ADA)

    assert caught.value is failure
    assert keys(db) == []
    assert db.execute("SELECT 1 AS one", (), ADA) == [{"one": 1}]


def test_the_rows_are_never_held_in_memory(db: PostgresClient) -> None:
    """Ten times the rows take no ten times of memory."""

    def peak(count: int, prefix: str) -> int:
        tracemalloc.start()
        db.bulk_insert("Bulk Rows", COLUMNS, ((uuid, f"{prefix}{n}") for n in range(count)), uuid)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    uuid = uuid4()
    peak(10, "w")

    assert peak(20_000, "b") < 3 * peak(2_000, "a")


@pytest.mark.pgbouncer
def test_it_works_behind_a_transaction_pooler(pgbouncer: PgBouncerServer) -> None:
    """The temporary table lives in the one transaction."""
    with PostgresClient(pgbouncer.url(), 2) as client:
        for number in range(3):
            rows = [(ADA, f"k{number}")]
            assert client.bulk_insert("contacts", ("user_id", "name"), rows, ADA) == 1
        stored = client.execute("DELETE FROM contacts RETURNING name", (), ADA)

    assert sorted(row["name"] for row in stored) == ["k0", "k1", "k2"]

"""What rows cost: to store many of them at once, and to have them as a type of one's own."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

import psycopg
import pytest

from clients.postgres_client import PostgresClient
from tests.benchmarks._board import compare
from tests.benchmarks._one_processor import one_processor
from tests.benchmarks._pairs import take_turns
from tests.postgres_faults import superuser

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks._board import Board
    from tests.benchmarks._pairs import Way
    from utils._stack.postgres import PostgresServer

pytestmark = pytest.mark.bench

_USER = UUID("00000000-0000-4000-8000-0000000b0b0b")
_STORED, _READ = 50_000, 1000
_COLUMNS = ("user_id", "name", "email")
_BULK = f"bulk_insert(), {_STORED:,} rows"
_MANY, _COPY = "execute_many()", "COPY, a table without RLS"
_TYPED = f"execute() of {_READ:,} rows, row_type= a dataclass"
_DICTS = "dict rows"


@dataclass(frozen=True, slots=True)
class Contact:
    """One row as a caller would have it."""

    id: UUID
    name: str
    email: str


@contextmanager
def tables(server: PostgresServer) -> Iterator[None]:
    """Make two empty tables of contacts: one with the policy of ``sql/``, one without any.

    Their ids are numbers: this server opens /dev/urandom for every UUID that it makes, which would
    be a quarter of what is measured, and no contestant's work.
    """
    columns = (
        "(id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id uuid NOT NULL,"
        " name text NOT NULL, email text, created_at timestamptz NOT NULL DEFAULT now())"
    )
    with superuser(server) as conn:
        conn.execute(
            f"CREATE TABLE bulk_guarded {columns}; CREATE TABLE bulk_open {columns};"
            "CREATE INDEX ON bulk_guarded (user_id, created_at);"
            "CREATE INDEX ON bulk_open (user_id, created_at);"
            "ALTER TABLE bulk_guarded ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
            "CREATE POLICY own ON bulk_guarded FOR ALL USING (user_id ="
            " (SELECT NULLIF(current_setting('app.current_user_id', true), '')::uuid));"
            "GRANT SELECT, INSERT ON bulk_guarded, bulk_open TO crm_user"
        )
        try:
            yield
        finally:
            conn.execute("DROP TABLE bulk_guarded, bulk_open")


def test_rows_by_copy(fault_server: PostgresServer, board: Board) -> None:
    """Rows that every policy has checked cost little more than rows that none has."""
    url = fault_server.url("crm_user", "secret")
    rows = [(_USER, f"contact {number}", f"{number}@example.org") for number in range(_STORED)]
    insert = "INSERT INTO bulk_guarded (user_id, name, email) VALUES (%s, %s, %s)"
    with (
        tables(fault_server),
        superuser(fault_server) as cleaner,
        # So both sides' work counts, also where the client's is done beside the server's.
        one_processor(fault_server.pid),
        psycopg.connect(url) as conn,
        PostgresClient(url, 1, min_size=1) as client,
    ):

        def copy() -> None:
            with conn.cursor().copy("COPY bulk_open (user_id, name, email) FROM STDIN") as stream:
                for row in rows:
                    stream.write_row(row)
            conn.commit()

        ways: dict[str, Way] = {
            _BULK: lambda: client.bulk_insert("bulk_guarded", _COLUMNS, rows, _USER),
            _MANY: lambda: client.execute_many(insert, rows, _USER),
            _COPY: copy,
        }
        times = take_turns(
            ways,
            rounds=7,
            calls=1,
            # What earlier rounds have stored must not make the later ones slower.
            before=lambda: cleaner.execute("TRUNCATE bulk_guarded, bulk_open"),
        )
    promises = {_MANY: "bulk, many", _COPY: "bulk, copy"}
    assert board.add(*compare("PostgreSQL", _BULK, times, _BULK, promises=promises)) == []


def test_rows_of_a_type(fault_server: PostgresServer, board: Board) -> None:
    """A dataclass for each row costs little more than a dict."""
    query = (
        "SELECT gen_random_uuid() AS id, 'contact ' || i AS name, i || '@example.org' AS email "
        f"FROM generate_series(1, {_READ}) AS i"
    )
    with (
        one_processor(fault_server.pid),
        PostgresClient(fault_server.url("crm_user", "secret"), 1, min_size=1) as client,
    ):
        assert len(client.execute(query, (), _USER, row_type=Contact)) == _READ
        ways: dict[str, Way] = {
            _TYPED: lambda: client.execute(query, (), _USER, row_type=Contact),
            _DICTS: lambda: client.execute(query, (), _USER),
        }
        times = take_turns(ways, rounds=61, calls=4)
    rows = compare("PostgreSQL", _TYPED, times, _TYPED, promises={_DICTS: "row type"})
    assert board.add(*rows) == []

"""What the project's own policy form costs on a large table: nothing beside an explicit WHERE."""

from __future__ import annotations

from contextlib import contextmanager
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import pytest

from clients._rls.check import check_rls
from tests.rls_databases import scratch_database
from utils._stack.seed import sql_files

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

    from tests.rls_databases import Scratch
    from utils._stack.postgres import PostgresServer

# Half a million rows take their time to be made.
pytestmark = pytest.mark.slow

USER = "00000000-0000-0000-0000-0000000004d2"
ROWS, OWN = 500_000, 500
# 1,000 users own 500 rows each, scattered over the whole table.
FILL = (
    "INSERT INTO contacts (user_id, name) "
    "SELECT lpad(to_hex(1234 + i % 1000), 32, '0')::uuid, 'contact ' || i "
    f"FROM generate_series(0, {ROWS - 1}) AS i"
)
FILTERED = "SELECT * FROM contacts"
EXPLICIT = f"SELECT * FROM contacts WHERE user_id = '{USER}'"


@pytest.fixture(scope="module")
def scratch(own_postgres: PostgresServer) -> Iterator[Scratch]:
    with scratch_database(own_postgres, "policy_plans") as database:
        for file in sql_files():
            database.run(file.read_text())
        # Without indexes the rows go in twice as fast; sql/ is safe to apply twice.
        database.run("DROP INDEX contacts_user_id_idx")
        database.run("ALTER TABLE contacts DROP CONSTRAINT contacts_pkey")
        database.run(FILL)
        for file in sql_files():
            database.run(file.read_text())
        # VACUUM too, so that no query of the test pays for hint bits.
        database.run("VACUUM ANALYZE contacts")
        yield database


@contextmanager
def as_user(scratch: Scratch) -> Iterator[psycopg.Connection[Any]]:
    """Connect as the application, with the user set for the session."""
    with scratch.connect() as connection:
        connection.execute("SELECT set_config('app.current_user_id', %s, false)", (USER,))
        yield connection


def test_the_policy_is_an_init_plan_and_an_index_condition(scratch: Scratch) -> None:
    """The setting is read once for the statement, and the index finds the user's rows."""
    with as_user(scratch) as connection:
        plan = "\n".join(str(line) for (line,) in connection.execute(f"EXPLAIN {FILTERED}"))

        assert "InitPlan" in plan
        assert "contacts_user_id_idx" in plan
        assert "Index Cond: (user_id = (InitPlan" in plan
        assert "Seq Scan" not in plan
        assert check_rls(connection) == []


def test_the_policy_costs_what_an_explicit_where_costs(scratch: Scratch) -> None:
    """A user's 500 of 500,000 rows come back within 1.2 times of a WHERE without RLS."""
    with as_user(scratch) as user, scratch.connect("crm_admin") as admin:
        assert len(user.execute(FILTERED).fetchall()) == OWN
        assert len(admin.execute(EXPLICIT).fetchall()) == OWN
        assert admin.execute("SELECT count(*) FROM contacts").fetchone() == (ROWS,)
        # Several medians: noise of the machine only ever adds to a ratio's parts.
        assert any(ratio(user, admin, rounds=60) <= 1.2 for _ in range(15))


def ratio(user: psycopg.Connection[Any], admin: psycopg.Connection[Any], *, rounds: int) -> float:
    """Return median time under the policy by median time without, in alternate rounds."""
    filtered, explicit = [], []
    for _ in range(rounds):
        filtered.append(seconds(user, FILTERED))
        explicit.append(seconds(admin, EXPLICIT))
    return median(filtered) / median(explicit)


def seconds(connection: psycopg.Connection[Any], query: str) -> float:
    """Return how long the query took, its rows fetched."""
    start = perf_counter()
    connection.execute(query.encode()).fetchall()
    return perf_counter() - start

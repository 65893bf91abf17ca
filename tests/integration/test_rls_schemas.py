"""check_rls() on many small schemas: each leak is found and closed, and no twin is called one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from clients._rls.check import Finding, check_rls
from tests.rls_cases.cases import CASES, CaseDatabase, CaseServer, case_server
from tests.rls_schemas.schemas import LEAKY, SAFE, Schema

if TYPE_CHECKING:
    from collections.abc import Iterator

    from utils._stack.postgres import PostgresServer

_ROLE = "CREATE ROLE case_set NOLOGIN; GRANT case_set TO app_user WITH INHERIT FALSE, SET TRUE"
_AFTER = """
ALTER ROLE app_user RESET ALL; ALTER ROLE app_user NOREPLICATION;
ALTER ROLE app_user IN DATABASE rls_schemas RESET ALL; ALTER ROLE app_admin RESET ALL;
ALTER DATABASE rls_schemas RESET ALL; ALTER ROLE ALL RESET ALL; REVOKE app_owner FROM app_user;
DROP SCHEMA IF EXISTS private CASCADE; DROP FOREIGN DATA WRAPPER IF EXISTS nowhere CASCADE;
DROP PUBLICATION IF EXISTS pub; DROP OWNED BY case_set; DROP ROLE case_set
"""


@pytest.fixture(scope="module")
def server(own_postgres: PostgresServer) -> Iterator[CaseServer]:
    """One database, in which one schema follows another."""
    with case_server(own_postgres.url(dbname="postgres"), "rls_schemas") as made:
        yield made


@pytest.fixture
def made(server: CaseServer, schema: Schema) -> Iterator[CaseDatabase]:
    """The schema, gone after the test."""
    server.run(_ROLE)
    try:
        server.run(schema.sql)
        yield CaseDatabase(server, CASES[0])
    finally:
        server.reset()
        server.run(_AFTER)


def _some(schemas: list[Schema]) -> list[object]:
    """Return them all, of which one in twelve is quick enough for every run."""
    return [
        pytest.param(schema, id=schema.name, marks=() if i % 12 == 0 else pytest.mark.slow)
        for i, schema in enumerate(schemas)
    ]


def _bad(database: CaseDatabase, schema: Schema) -> list[Finding]:
    with database.connect() as connection:
        found = check_rls(connection, schema.setting)
    return [finding for finding in found if finding.severity in ("leak", "risk")]


@pytest.mark.parametrize("schema", _some(LEAKY))
def test_a_leak_is_found_and_closed(made: CaseDatabase, schema: Schema) -> None:
    """Something tells of it, and once the SQL of all findings has run nothing leaks any more.

    A finding without SQL, or with a comment for SQL, leaves the change to its reader.
    """
    found = _bad(made, schema)
    assert found, "nothing tells of it"
    for _ in range(2):
        for finding in found:
            made.run(finding.fix)
        left = _bad(made, schema)
        closed = {(f.rule, f.object) for f in found if f.fix and not f.fix.startswith("--")}
        assert not closed & {(f.rule, f.object) for f in left}
        found = left
    left = [f for f in found if f.severity == "leak" and f.fix and not f.fix.startswith("--")]
    assert [str(finding) for finding in left] == []


@pytest.mark.parametrize("schema", _some(SAFE))
def test_a_safe_twin_is_called_no_leak(made: CaseDatabase, schema: Schema) -> None:
    """What cannot be reached, or is kept apart, is no leak."""
    assert [str(f) for f in _bad(made, schema) if f.severity == "leak"] == []

"""One table in order, in pieces, for tests of the linter to break; and how to ask the linter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from clients._rls.check import Finding, check_rls
from tests.rls_databases import Scratch, scratch_database

if TYPE_CHECKING:
    from collections.abc import Iterator

    from utils._stack.postgres import PostgresServer

SETTING = "current_setting('app.current_user_id', true)"
USER = f"(SELECT NULLIF({SETTING}, '')::uuid)"
MINE = f"user_id = {USER}"
TABLE = "CREATE TABLE app.docs (user_id uuid NOT NULL, body text);"
INDEX = "CREATE INDEX ON app.docs (user_id);"
GRANT = "GRANT SELECT, INSERT, UPDATE, DELETE ON app.docs TO crm_user;"
RLS = "ALTER TABLE app.docs ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
POLICY = f"CREATE POLICY mine ON app.docs USING ({MINE}) WITH CHECK ({MINE});"
BARE = TABLE + INDEX + GRANT + RLS
CLEAN = BARE + POLICY
# A function that reads the setting as a policy should.
HELPER = (
    "CREATE FUNCTION app.uid() RETURNS uuid LANGUAGE sql STABLE "
    f"AS $$ SELECT NULLIF({SETTING}, '')::uuid $$;"
)
# A function that reads the table with its owner's rights; PUBLIC may run it from the start.
DEFINER = (
    "CREATE FUNCTION app.leak() RETURNS SETOF app.docs LANGUAGE sql SECURITY DEFINER "
    "AS 'SELECT * FROM app.docs';"
)


def policy(expression: str) -> str:
    """Return a table that is right but for this expression in its one policy."""
    return f"{BARE} CREATE POLICY mine ON app.docs USING ({expression});"


def check(scratch: Scratch) -> list[Finding]:
    """Ask the linter as the application role."""
    with scratch.connect() as connection:
        return check_rls(connection)


def rules(scratch: Scratch) -> list[tuple[str, str]]:
    """Return the rule and object of each finding."""
    return [(finding.rule, finding.object) for finding in check(scratch)]


def mend(scratch: Scratch) -> list[str]:
    """Run every mend, in order, and return what is still found."""
    for finding in check(scratch):
        scratch.run(finding.fix)
    return [str(finding) for finding in check(scratch)]


@pytest.fixture(scope="module")
def scratch(own_postgres: PostgresServer, request: pytest.FixtureRequest) -> Iterator[Scratch]:
    """A database of the module's own."""
    with scratch_database(own_postgres, request.path.stem) as database:
        yield database


@pytest.fixture
def empty_schema(scratch: Scratch) -> Iterator[None]:
    """The schema ``app``, empty, which the application role may enter; gone after the test."""
    scratch.run("CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO crm_user")
    try:
        yield
    finally:
        scratch.run('DROP SCHEMA app CASCADE; DROP SCHEMA IF EXISTS "Od\'d" CASCADE')
        scratch.drop_roles()

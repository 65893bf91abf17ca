"""prove_isolation(): what one user can really do with another's rows, and nothing left behind."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import psycopg
import pytest

from clients import PostgresClient, prove_isolation
from clients.__main__ import main
from clients._rls.finding import Leak
from clients.errors import PostgresConfigurationError
from tests.rls_cases.cases import CASES, Case, case_server
from tests.rls_tables import BARE, CLEAN, DEFINER, MINE, SETTING, policy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rls_databases import Scratch
    from tests.vault_fixtures import VaultLab
    from utils._stack.postgres import PostgresServer

pytestmark = pytest.mark.usefixtures("empty_schema")


@pytest.fixture
def client(scratch: Scratch) -> Iterator[PostgresClient]:
    """A client of the scratch database, with its superuser as the administrator."""
    server, name = scratch.server, scratch.name
    url = server.url("crm_user", "secret", name)
    with PostgresClient(
        url, 1, min_size=1, admin_url=server.url(dbname=name), on_rls_bypass="ignore"
    ) as made:
        yield made


def test_isolation_holds_in_the_projects_own_schema(own_postgres: PostgresServer) -> None:
    """Every table is tried as the application's role, by an administrator that is no superuser."""
    with PostgresClient(
        own_postgres.url("crm_user", "secret"), admin_url=own_postgres.url("crm_admin", "secret")
    ) as client:
        before = client.execute("SELECT count(*) FROM contacts", admin=True)
        proof = prove_isolation(client)

        assert proof.leaks == []
        assert proof.untried == {}
        assert {"public.users", "public.contacts", "public.tickets", "public.addresses"} <= set(
            proof.tried
        )
        assert client.execute("SELECT count(*) FROM contacts", admin=True) == before


LEAKS = {
    "another user reads a user's row": policy("true"),
    "nobody reads a user's row": policy(
        f"{MINE} OR current_setting('app.current_user_id', true) = ''"
    ),
    "another user changes a user's row": BARE
    + f"CREATE POLICY a ON app.docs USING (true) WITH CHECK ({MINE});"
    f"CREATE POLICY b ON app.docs AS RESTRICTIVE FOR SELECT USING ({MINE});"
    "ALTER POLICY a ON app.docs WITH CHECK (true)",
    "another user removes a user's row": CLEAN
    + "CREATE POLICY d ON app.docs FOR DELETE USING (true)",
    "another user reads a user's row, with another value of app.bypass": policy(
        f"{MINE} OR current_setting('app.bypass', true) = 'yes'"
    ),
    "another user reads a user's row of app.docs, after calling it": CLEAN
    + "CREATE FUNCTION app.become(id uuid) RETURNS void LANGUAGE plpgsql AS $$ "
    "BEGIN EXECUTE format('SET LOCAL app.current_user_id = %L', id); END $$",
    "a user adds a row as another user": CLEAN
    + "CREATE POLICY a ON app.docs FOR INSERT WITH CHECK (true)",
    "a user hands over a row to another user": CLEAN
    + "CREATE POLICY u ON app.docs FOR UPDATE USING (false) WITH CHECK (true)",
}


def _replayed(
    connection: psycopg.Connection[tuple[object, ...]], statements: str
) -> tuple[str, int]:
    """Return the rows, and how many they were, of the statement before the last."""
    cursor = connection.execute(statements.encode())
    found: list[tuple[str, int]] = []
    while True:
        found.append((str(cursor.fetchall()) if cursor.description else "", cursor.rowcount))
        if not cursor.nextset():
            return found[-2]


def test_roles_that_may_be_taken_are_tried(scratch: Scratch, client: PostgresClient) -> None:
    """Tables and views that SET ROLE alone reaches are read as that role."""
    scratch.make_role("staff")
    scratch.run(
        CLEAN + "CREATE POLICY all_rows ON app.docs TO staff USING (true);"
        "CREATE VIEW app.seen AS SELECT * FROM app.docs; GRANT USAGE ON SCHEMA app TO staff;"
        "GRANT SELECT ON app.docs, app.seen TO staff; GRANT staff TO crm_user WITH INHERIT FALSE"
    )
    what = 'another user reads a user\'s row, as role "staff"'
    leaks = [leak for leak in client.prove_isolation().leaks if leak.what == what]

    assert [leak.object for leak in leaks] == ["app.docs", "app.seen"]
    with psycopg.connect(scratch.server.url(dbname=scratch.name), autocommit=True) as conn:
        assert all("7a7a7a7a-1111" in _replayed(conn, leak.statements)[0] for leak in leaks)


@pytest.mark.parametrize("what", LEAKS)
def test_each_leak_is_shown_by_statements_that_run(
    scratch: Scratch, client: PostgresClient, what: str
) -> None:
    """What a user can do is told, and its statements run as they stand and leave nothing."""
    scratch.run(LEAKS[what])
    leaks = {leak.what: leak for leak in client.prove_isolation().leaks}

    assert what in leaks
    with psycopg.connect(scratch.server.url(dbname=scratch.name), autocommit=True) as conn:
        rows, count = _replayed(conn, leaks[what].statements)
        assert count >= 1
        assert "read" not in what or "7a7a7a7a-1111" in rows
        assert conn.execute("SELECT count(*) FROM app.docs").fetchone() == (0,)


def test_views_functions_and_upserts_are_tried(scratch: Scratch, client: PostgresClient) -> None:
    """Whatever the role may read, call or write shows another's rows, or it does not."""
    scratch.run(
        CLEAN + DEFINER + "CREATE VIEW app.seen AS SELECT body FROM app.docs;"
        "GRANT SELECT ON app.seen TO crm_user;"
        "CREATE FUNCTION app.clear(who uuid) RETURNS void LANGUAGE sql SECURITY DEFINER "
        "AS 'DELETE FROM app.docs WHERE user_id = who';"
        "ALTER TABLE app.docs ADD id uuid PRIMARY KEY;"
        "CREATE POLICY u ON app.docs FOR UPDATE USING (true) WITH CHECK (true);"
        "CREATE POLICY i ON app.docs FOR INSERT WITH CHECK (true);"
        "CREATE POLICY s ON app.docs FOR SELECT USING (true)"
    )
    found = {(leak.object, leak.what) for leak in client.prove_isolation().leaks}

    assert {
        ("app.seen", "another user reads a user's row"),
        ("function app.leak()", "another user reads a user's row"),
        ("function app.clear(who uuid)", "another user changes a user's row"),
        ("app.docs", "another user changes, by an upsert, a user's row"),
    } <= found


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.kind == "safe"], ids=lambda case: case.name
)
@pytest.mark.slow
def test_a_safe_schema_holds(own_postgres: PostgresServer, case: Case) -> None:
    """No attempt succeeds where no attack works."""
    from clients._rls.prove import prove  # noqa: PLC0415 - what the client calls

    with (
        case_server(own_postgres.url(dbname="postgres"), "rls_safe") as server,
        case.database(server) as database,
        database.connect() as application,
        psycopg.connect(database.url, autocommit=True) as admin,
    ):
        assert prove(application, admin, case.setting).leaks == []


def test_a_table_in_which_no_column_names_a_user_is_told(
    scratch: Scratch, client: PostgresClient
) -> None:
    """Nobody's rows can be added to it, so nothing was tried there."""
    scratch.run(
        "CREATE TABLE app.notes (acl jsonb NOT NULL, body text);"
        "ALTER TABLE app.notes ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
        "GRANT SELECT ON app.notes TO crm_user;"
        f"CREATE POLICY p ON app.notes USING (acl ->> 'owner' = {SETTING});"
    )
    proof = client.prove_isolation()

    assert proof.tried == []
    assert "no column tells" in proof.untried["app.notes"]


def test_a_table_that_cannot_be_filled_is_told(scratch: Scratch, client: PostgresClient) -> None:
    """What was not tried is not called safe."""
    scratch.run(CLEAN + "ALTER TABLE app.docs ADD CHECK (body = 'what nobody guesses')")
    proof = client.prove_isolation()

    assert proof.tried == []
    assert "no row could be added" in proof.untried["app.docs"]


def test_without_an_administrator_it_says_so(scratch: Scratch) -> None:
    """It needs a role that may add rows for everybody, and says how to name one."""
    url = scratch.server.url("crm_user", "secret", scratch.name)
    with (
        PostgresClient(url, 1, min_size=1) as client,
        pytest.raises(PostgresConfigurationError, match="admin_url"),
    ):
        client.prove_isolation()


def test_a_leak_reads_as_a_sentence_and_its_statements() -> None:
    """Its text is what a failed test shows."""
    leak = Leak("app.docs", "nobody reads a user's row", "BEGIN;\nROLLBACK;")

    assert str(leak) == "app.docs: nobody reads a user's row:\nBEGIN;\nROLLBACK;"


def test_the_command_line_proves_reports_and_fails_by_severity(
    scratch: Scratch,
    vault_lab: VaultLab,
    own_secrets: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """--prove adds what was proven, --sarif is SARIF, --fail-on sets the exit code."""
    server, name = scratch.server, scratch.name
    urls = {
        "url": server.url("crm_user", "secret", name),
        "admin_url": server.url(dbname=name),
    }
    vault_lab.write("crm/database", urls)
    scratch.run(policy("true"))

    assert main(["rls", "--prove", "--json"], own_secrets) == 1
    found = json.loads(capsys.readouterr().out)
    assert {"policy-always-true", "proven-leak"} == {finding["rule"] for finding in found}

    assert main(["rls", "--sarif"], own_secrets) == 1
    log = json.loads(capsys.readouterr().out)
    assert log["version"] == "2.1.0"
    assert [r["level"] for r in log["runs"][0]["results"]] == ["error"]

    scratch.run("DROP POLICY mine ON app.docs")
    assert main(["rls"], own_secrets) == 1
    assert main(["rls", "--fail-on", "leak"], own_secrets) == 0
    capsys.readouterr()

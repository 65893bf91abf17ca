"""The ways around the policies: one of each kind, found, and closed by the SQL of its finding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from clients._rls.catalogue import Catalogue
from clients._rls.paths import Functions, Paths
from tests.rls_faults import MEMBERS, OF_THE_TEAM, PATHS
from tests.rls_tables import (
    CLEAN,
    GRANT,
    MINE,
    RLS,
    SETTING,
    check,
    mend,
    policy,
    rules,
)

if TYPE_CHECKING:
    from tests.rls_databases import Scratch

pytestmark = pytest.mark.usefixtures("empty_schema")


@pytest.mark.parametrize("rule", PATHS)
def test_each_way_is_found_and_closed(scratch: Scratch, rule: str) -> None:
    """A way around the policies yields exactly its finding; its SQL leaves none."""
    statements, name = PATHS[rule]
    try:
        scratch.run(statements)
        (finding,) = check(scratch)

        assert (finding.rule, finding.object) == (rule, name)
        if rule not in ("policy-not-proven", "policy-raises"):
            scratch.run(finding.fix)
            assert check(scratch) == []
    finally:
        scratch.run("DROP FOREIGN DATA WRAPPER IF EXISTS nowhere CASCADE")
        scratch.run("ALTER ROLE crm_user IN DATABASE test_rls_check_paths RESET ALL")
        scratch.run("DROP PUBLICATION IF EXISTS outside")
        scratch.run("REVOKE SELECT ON pg_catalog.pg_statistic FROM crm_user")


def test_a_role_that_may_be_taken_counts_by_its_policies(scratch: Scratch) -> None:
    """SET ROLE reaches what another role's lax policy shows."""
    scratch.make_role("staff")
    scratch.run(
        f"{CLEAN} CREATE POLICY all_rows ON app.docs TO staff USING (true);"
        "GRANT SELECT ON app.docs TO staff; GRANT staff TO crm_user WITH INHERIT FALSE"
    )

    assert rules(scratch) == [("set-role", 'role "staff"')]
    assert mend(scratch) == []


def test_a_role_with_bypass_is_found(scratch: Scratch) -> None:
    """A membership that reaches BYPASSRLS is told with the tables' findings."""
    scratch.make_role("passer", "BYPASSRLS")
    scratch.run(f"{CLEAN} GRANT passer TO crm_user")

    assert rules(scratch) == [("role-bypasses-rls", "role crm_user")]
    assert mend(scratch) == []


def test_powers_of_the_role_itself_are_found(scratch: Scratch) -> None:
    """REPLICATION, CREATEROLE and the server's files pass every policy by."""
    scratch.run(CLEAN + "ALTER ROLE crm_user CREATEROLE; GRANT pg_read_server_files TO crm_user")
    try:
        assert rules(scratch) == [("role-attribute", "role crm_user")] * 2
        assert mend(scratch) == []
    finally:
        scratch.run("ALTER ROLE crm_user NOCREATEROLE; REVOKE pg_read_server_files FROM crm_user")


def test_known_holes_are_told_by_the_servers_release() -> None:
    """A release with a hole in row-level security is named with the one that closes it."""
    table = {
        "protected": True, "reachable": True, "columns": [], "policies": [], "select": True,
        "update": True, "delete": True, "name": "docs",
    }  # fmt: skip
    role = {"version": 170000, "replication": False, "createrole": False, "powers": []}
    catalogue = Catalogue({"table": [("app.docs", table)], "role": [("app", role)]}, {}, "")
    paths = Paths(
        catalogue, Functions(catalogue), [], lambda *_: None, lambda _: None, lambda _: []
    )
    found = [finding for finding in paths.find() if finding.rule == "server-version"]

    assert [("17.6" in f.fix, "17.1" in f.fix) for f in found] == [(True, False), (False, True)]


def test_a_definer_that_keeps_to_its_caller_is_no_leak(scratch: Scratch) -> None:
    """A body that returns the user's own rows alone is run over others' rows, and cleared."""
    body = f"SELECT d.body FROM app.docs d WHERE d.user_id = NULLIF({SETTING}, '')::uuid"
    scratch.run(
        CLEAN + "CREATE FUNCTION app.mine() RETURNS SETOF text LANGUAGE sql STABLE "
        f"SECURITY DEFINER AS $$ {body} $$"
    )
    assert check(scratch) == []

    scratch.run(
        "CREATE OR REPLACE FUNCTION app.mine() RETURNS SETOF text LANGUAGE sql STABLE "
        f"SECURITY DEFINER AS $$ {body} OR d.body LIKE '%' $$"
    )
    (finding,) = check(scratch)
    assert (finding.rule, finding.severity) == ("security-definer", "leak")


def test_a_view_that_keeps_to_its_caller_is_no_leak(scratch: Scratch) -> None:
    """A view with its owner's rights that asks for the user itself shows nobody else's rows."""
    scratch.run(
        CLEAN + f"CREATE VIEW app.mine AS SELECT * FROM app.docs WHERE {MINE};"
        "GRANT SELECT ON app.mine TO crm_user"
    )

    assert check(scratch) == []


def test_a_view_whose_owner_is_bound_is_safe(scratch: Scratch) -> None:
    """FORCE binds the owner, whose view then shows what the policies show."""
    scratch.make_role("owner")
    scratch.run(
        CLEAN + "ALTER TABLE app.docs OWNER TO owner; GRANT USAGE ON SCHEMA app TO owner;"
        "CREATE VIEW app.seen AS SELECT * FROM app.docs; ALTER VIEW app.seen OWNER TO owner;"
        "GRANT SELECT ON app.seen TO crm_user"
    )

    assert check(scratch) == []


def test_children_of_protected_rows_need_policies_too(scratch: Scratch) -> None:
    """A table without an owner's column belongs to what its foreign key points at."""
    scratch.run(
        CLEAN + "ALTER TABLE app.docs ADD id uuid PRIMARY KEY;"
        "CREATE TABLE app.lines (doc_id uuid REFERENCES app.docs, body text);"
        "GRANT SELECT ON app.lines TO crm_user"
    )
    assert rules(scratch) == [("rls-disabled", "app.lines")]
    assert mend(scratch) == []


def test_a_member_of_a_team_may_not_enrol_but_be_enrolled(scratch: Scratch) -> None:
    """Membership that others grant is sharing, and no finding."""
    scratch.run(MEMBERS + OF_THE_TEAM + "GRANT SELECT ON app.members TO crm_user")

    assert check(scratch) == []


@pytest.mark.parametrize("severity", ["leak", "risk", "slow", "note"])
def test_each_finding_has_a_severity(scratch: Scratch, severity: str) -> None:
    """What leaks, what may, what crawls and what is worth knowing are told apart."""
    statements = {
        "leak": policy("true"),
        "risk": CLEAN + "ALTER TABLE app.docs NO FORCE ROW LEVEL SECURITY",
        "slow": policy(f"user_id = NULLIF({SETTING}, '')::uuid"),
        "note": CLEAN.replace(RLS, "").replace(GRANT, "")
        + "CREATE TABLE app.n (user_id uuid); CREATE INDEX ON app.n (user_id);"
        "ALTER TABLE app.n ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
        "GRANT SELECT ON app.n TO crm_user",
    }
    scratch.run(statements[severity])

    assert [finding.severity for finding in check(scratch)] == [severity]


_STATISTIC = "FROM pg_catalog.pg_statistic WHERE starelid = 'app.docs'::regclass"
_STATS = "SELECT most_common_vals::text FROM pg_catalog.pg_stats WHERE tablename = 'docs'"
_VIEWS = (
    f"CREATE VIEW app.samples AS SELECT stavalues1::text {_STATISTIC};"
    "CREATE VIEW app.more AS TABLE app.samples; GRANT SELECT ON app.more TO crm_user"
)
_COPY = f"CREATE MATERIALIZED VIEW app.more AS {_STATS}; GRANT SELECT ON app.more TO crm_user"
_ROUTINE = (
    "CREATE FUNCTION app.samples() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER "
    f"AS $$ {_STATS} $$"
)
_RAW = f"SELECT stavalues1::text {_STATISTIC}"
_CATALOGUES = ["pg_catalog.pg_statistic", "pg_catalog.pg_statistic_ext_data"]
SAMPLES = {
    "pg_statistic": (
        "GRANT SELECT ON pg_catalog.pg_statistic TO crm_user", _RAW, _CATALOGUES[:1],
    ),
    "a role that reads all": ("GRANT pg_read_all_data TO crm_user", _RAW, _CATALOGUES),
    "a view": (_VIEWS, "TABLE app.more", ["app.more"]),
    "a materialized view": (_COPY, "TABLE app.more", ["app.more"]),
    "a function": (_ROUTINE, "SELECT app.samples()", ["function app.samples()"]),
}  # fmt: skip


@pytest.mark.parametrize("way", SAMPLES)
def test_samples_of_others_values_are_found(scratch: Scratch, way: str) -> None:
    """What ANALYZE keeps of another user's rows shows, a finding tells, and its SQL ends both."""
    statements, query, names = SAMPLES[way]
    rows = "INSERT INTO app.docs SELECT gen_random_uuid(), 'private' FROM generate_series(1, 99);"
    # Read before what is made of it.
    scratch.run(CLEAN + rows)
    scratch.run("ANALYZE app.docs")
    scratch.run(statements)
    try:
        with scratch.connect() as connection:
            shown = str(connection.execute(query.encode()).fetchall())
            found = [f for f in check(scratch) if f.rule == "statistics-readable"]
            assert "private" in shown
            assert [f.object for f in found] == names
            for finding in found:
                scratch.run(finding.fix)
            assert [f.rule for f in check(scratch)] == []
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(query.encode())
    finally:
        scratch.run(
            "REVOKE SELECT ON pg_catalog.pg_statistic FROM crm_user;"
            "REVOKE pg_read_all_data FROM crm_user"
        )


@pytest.mark.parametrize(
    "statements",
    [
        "GRANT pg_read_all_stats, pg_monitor TO crm_user",
        f"CREATE VIEW app.samples AS {_STATS}; GRANT SELECT ON app.samples TO crm_user",
    ],
    ids=["roles", "view"],
)
def test_what_shows_no_samples_is_not_found(scratch: Scratch, statements: str) -> None:
    """pg_stats hides tables whose policies bind who reads it, also through a view."""
    scratch.run(CLEAN + statements)
    try:
        assert check(scratch) == []
    finally:
        scratch.run("REVOKE pg_read_all_stats, pg_monitor FROM crm_user")

"""The linter's rules against real catalogues: one broken object each, and that its mend mends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from clients._rls.check import check_rls
from tests.rls_faults import BROKEN, PARTITIONED, PATHS
from tests.rls_tables import (
    CLEAN,
    DEFINER,
    GRANT,
    RLS,
    SETTING,
    TABLE,
    USER,
    check,
    mend,
    rules,
)

if TYPE_CHECKING:
    from tests.rls_databases import Scratch
    from utils._stack.postgres import PostgresServer

pytestmark = pytest.mark.usefixtures("empty_schema")


@pytest.mark.parametrize("rule", BROKEN)
def test_each_rule_finds_its_one_fault_and_mends_it(scratch: Scratch, rule: str) -> None:
    """A broken object yields exactly its finding; its SQL, run as it stands, leaves none."""
    statements, name = BROKEN[rule]
    scratch.run(statements)
    (finding,) = check(scratch)

    assert (finding.rule, finding.object) == (rule, name)
    assert str(finding) == (
        f"{finding.severity}: {rule}: {name} {finding.why}; fix it with: {finding.fix}"
    )
    scratch.run(finding.fix)
    assert check(scratch) == []


def test_every_rule_of_the_table_has_its_case() -> None:
    """The docstring's table names the rules that are tested, no more and no fewer."""
    module = __import__("clients._rls.check", fromlist=["__doc__"])
    rows = (module.__doc__ or "").split("=\n")[2].splitlines()

    assert {row.split()[0] for row in rows if row[:1].isalpha()} == {
        *BROKEN,
        *PATHS,
        # Of roles, servers and identities: tested by themselves.
        "set-role",
        "role-bypasses-rls",
        "role-attribute",
        "server-version",
        "policy-partial-identity",
        "setting-not-in-identity",
        "identity-not-signed",
        "identity-key-granted",
    }


def test_the_projects_own_tables_are_clean(own_postgres: PostgresServer) -> None:
    """sql/ passes its own linter."""
    with psycopg.connect(own_postgres.url("crm_user", "secret"), autocommit=True) as connection:
        assert check_rls(connection) == []


def test_a_schema_in_order_yields_nothing(scratch: Scratch) -> None:
    """Table, invoker view, harmless functions and a table without users are no findings."""
    scratch.run(
        CLEAN + "CREATE VIEW app.seen WITH (security_invoker = on, check_option = local) AS "
        "SELECT * FROM app.docs; CREATE TABLE app.countries (id int PRIMARY KEY);"
        "CREATE FUNCTION app.harmless() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1';"
        "CREATE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER "
        "AS 'BEGIN UPDATE app.docs SET body = NULL; RETURN NEW; END';"
        "GRANT SELECT ON app.seen, app.countries TO crm_user"
    )

    assert check(scratch) == []


def test_what_the_role_cannot_reach_is_left_out(scratch: Scratch) -> None:
    """Broken objects without a grant, or in a schema that it may not enter, are no findings."""
    scratch.run(
        TABLE.replace("app.docs", "app.open") + CLEAN + DEFINER
        + "REVOKE EXECUTE ON FUNCTION app.leak() FROM PUBLIC;"
        "CREATE VIEW app.seen AS SELECT * FROM app.docs;"
        "CREATE SCHEMA \"Od'd\"; CREATE TABLE \"Od'd\".docs (user_id uuid);"
        "GRANT SELECT ON \"Od'd\".docs TO crm_user"
    )  # fmt: skip

    assert check(scratch) == []


@pytest.mark.parametrize(
    "grant",
    ["SELECT (body) ON app.docs TO crm_user", "SELECT ON app.docs TO PUBLIC"],
    ids=["one column", "everyone"],
)
def test_any_way_to_reach_a_table_counts(scratch: Scratch, grant: str) -> None:
    """One column's privilege, or everyone's, makes a table reachable."""
    scratch.run(f"{TABLE} GRANT {grant}")

    assert rules(scratch) == [("rls-disabled", "app.docs")]


def test_tricky_names_in_another_schema_are_quoted(scratch: Scratch) -> None:
    """Quotes, upper case and spaces survive into object and mend; findings are sorted."""
    name = '"Od\'d"."My ""Docs"""'
    scratch.run(
        f'CREATE SCHEMA "Od\'d"; GRANT USAGE ON SCHEMA "Od\'d" TO crm_user;'
        f'CREATE TABLE {name} ("User Id" uuid, "a)b" text); GRANT ALL ON {name} TO crm_user;'
        f'CREATE POLICY "P "" 1" ON {name} USING ("User Id" = {SETTING}::uuid);'
        f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY;" + TABLE + GRANT
    )

    assert rules(scratch) == [
        ("policy-column-without-index", name),
        ("rls-not-forced", name),
        ("trigger-granted", name),
        ("truncate-granted", name),
        ("rls-disabled", "app.docs"),
        ("cast-without-nullif", f'policy "P "" 1" on {name}'),
        ("evaluated-per-row", f'policy "P "" 1" on {name}'),
    ]
    for finding in check(scratch):
        scratch.run(finding.fix)
    assert check(scratch) == []


def test_a_table_with_a_column_of_another_tables_policy_is_a_users_table(
    scratch: Scratch,
) -> None:
    """A column that policies compare with the setting marks other tables; a key does not."""
    scratch.run(
        f"{TABLE} {GRANT} {RLS} ALTER TABLE app.docs RENAME user_id TO owner;"
        f"CREATE INDEX ON app.docs (owner); CREATE POLICY mine ON app.docs USING (owner = {USER});"
        "CREATE TABLE app.notes (owner uuid, id uuid);"
        "CREATE TABLE app.people (id uuid PRIMARY KEY);"
        "ALTER TABLE app.people ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
        f"CREATE POLICY me ON app.people USING (id = {USER});"
        "CREATE TABLE app.countries (id uuid);"
        "GRANT SELECT ON app.notes, app.people, app.countries TO crm_user"
    )
    (finding,) = check(scratch)

    assert (finding.rule, finding.object) == ("rls-disabled", "app.notes")
    scratch.run(finding.fix)
    assert check(scratch) == []


def test_policies_without_rls_are_told_apart(scratch: Scratch) -> None:
    """Policies that are switched off say so, and are switched on."""
    scratch.run(CLEAN + "ALTER TABLE app.docs DISABLE ROW LEVEL SECURITY")
    (finding,) = check(scratch)

    assert finding.rule == "rls-disabled"
    assert "policies that do nothing" in finding.why
    assert finding.fix == "ALTER TABLE app.docs ENABLE ROW LEVEL SECURITY;"


def test_protected_partitions_of_a_clean_parent_are_clean(scratch: Scratch) -> None:
    """RLS on the child needs no policy of its own, and an unreachable child needs no RLS."""
    scratch.run(
        PARTITIONED + "CREATE TABLE app.later PARTITION OF app.docs FOR VALUES IN (2027);"
        "ALTER TABLE app.later ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
        "GRANT SELECT ON app.later TO crm_user"
    )

    assert check(scratch) == []


def test_an_open_parent_is_told_once_and_not_for_each_partition(scratch: Scratch) -> None:
    """Without RLS on the parent, that is the finding; its partitions come next."""
    scratch.run(
        "CREATE TABLE app.docs (user_id uuid, year int) PARTITION BY LIST (year);"
        "CREATE TABLE app.now PARTITION OF app.docs FOR VALUES IN (2026);"
        "GRANT SELECT ON app.docs, app.now TO crm_user"
    )
    (finding,) = check(scratch)
    scratch.run(finding.fix)

    assert (finding.rule, finding.object) == ("rls-disabled", "app.docs")
    assert rules(scratch) == [("partition-reachable", "app.now")]


def test_a_partition_two_levels_down_and_an_inheriting_table_are_found(scratch: Scratch) -> None:
    """A grandchild, and a child by INHERITS, pass the policies by as well."""
    scratch.run(
        CLEAN + "CREATE TABLE app.child () INHERITS (app.docs);"
        "CREATE TABLE app.grandchild () INHERITS (app.child);"
        "GRANT SELECT ON app.grandchild TO crm_user"
    )

    assert rules(scratch) == [("partition-reachable", "app.grandchild")]


def test_a_foreign_partition_is_revoked(scratch: Scratch) -> None:
    """A foreign table cannot have RLS, so the mend takes the grant."""
    scratch.run(
        PARTITIONED + "CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER far FOREIGN DATA WRAPPER "
        "nowhere; CREATE FOREIGN TABLE app.far PARTITION OF app.docs FOR VALUES IN (2027) "
        "SERVER far; GRANT SELECT ON app.far TO PUBLIC"
    )
    (finding,) = check(scratch)

    assert (finding.rule, finding.fix) == (
        "partition-reachable",
        "REVOKE ALL ON app.far FROM PUBLIC;",
    )
    assert mend(scratch) == []
    scratch.run("DROP FOREIGN DATA WRAPPER nowhere CASCADE")


def test_views_over_views_are_seen_through(scratch: Scratch) -> None:
    """A plain view over an invoker's view is safe; a copy made through both is not."""
    scratch.run(
        CLEAN + "CREATE VIEW app.inner_view WITH (security_invoker) AS SELECT * FROM app.docs;"
        "CREATE VIEW app.outer_view AS SELECT * FROM app.inner_view;"
        "CREATE MATERIALIZED VIEW app.copied AS SELECT * FROM app.outer_view;"
        "GRANT SELECT ON app.inner_view, app.outer_view, app.copied TO crm_user"
    )

    assert rules(scratch) == [
        ("materialized-view", "app.copied"),
    ]


def test_a_view_over_a_partition_alone_is_found(scratch: Scratch) -> None:
    """The parent's policies do not reach a view that reads its partition."""
    scratch.run(
        PARTITIONED + 'CREATE VIEW app.seen AS SELECT * FROM app."Of ""26";'
        "GRANT SELECT ON app.seen TO crm_user"
    )

    assert rules(scratch) == [("view-without-security-invoker", "app.seen")]

"""The linter on policies of many forms, by what they ask of the row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from clients._rls.check import check_rls
from tests.rls_tables import (
    BARE,
    CLEAN,
    GRANT,
    HELPER,
    INDEX,
    MINE,
    RLS,
    SETTING,
    TABLE,
    USER,
    check,
    mend,
    policy,
    rules,
)

if TYPE_CHECKING:
    from tests.rls_databases import Scratch

pytestmark = pytest.mark.usefixtures("empty_schema")


def shown_without_context(scratch: Scratch) -> int:
    """Return the most rows that show where the setting was never set, or reads ''."""
    with scratch.connect() as connection:
        fresh = connection.execute("SELECT * FROM app.docs").fetchall()
        connection.execute("SELECT set_config('app.current_user_id', '', false)")
        used = connection.execute("SELECT * FROM app.docs").fetchall()
    return max(len(fresh), len(used))


def test_policies_split_by_command_are_clean(scratch: Scratch) -> None:
    """One policy for each command says as much as one for all."""
    scratch.run(
        BARE + f"CREATE POLICY s ON app.docs FOR SELECT USING ({MINE});"
        f"CREATE POLICY i ON app.docs FOR INSERT WITH CHECK ({MINE});"
        f"CREATE POLICY u ON app.docs FOR UPDATE USING ({MINE}) WITH CHECK ({MINE});"
        f"CREATE POLICY d ON app.docs FOR DELETE USING ({MINE})"
    )

    assert check(scratch) == []


@pytest.mark.parametrize(
    ("clauses", "kind"),
    [
        (f"FOR INSERT WITH CHECK (true); CREATE POLICY s ON app.docs USING ({MINE})", "WITH CHECK"),
        (f"USING ({MINE}) WITH CHECK (true)", "WITH CHECK"),
        ("USING (true) WITH CHECK (true)", "USING and WITH CHECK"),
    ],
)
def test_each_clause_is_judged(scratch: Scratch, clauses: str, kind: str) -> None:
    """A lax WITH CHECK behind a strict USING is found, and both in one finding."""
    scratch.run(f"{BARE} CREATE POLICY p ON app.docs {clauses}")
    (finding,) = check(scratch)

    assert finding.rule == "policy-always-true"
    assert f"({kind})" in finding.why
    assert mend(scratch) == []


def test_policies_to_other_roles_do_not_count(scratch: Scratch) -> None:
    """A lax policy for another role is not ours, and a good one for it does not serve us."""
    scratch.make_role("other")
    scratch.run(
        CLEAN + "CREATE POLICY all_rows ON app.docs TO other USING (true);"
        "CREATE TABLE app.notes (user_id uuid); CREATE INDEX ON app.notes (user_id);"
        "ALTER TABLE app.notes ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
        f"CREATE POLICY user_isolation ON app.notes TO other USING ({MINE});"
        "GRANT SELECT ON app.notes TO crm_user"
    )

    assert rules(scratch) == [("no-policy", "app.notes")]
    assert mend(scratch) == []


def test_a_policy_to_a_group_counts_for_its_members(scratch: Scratch) -> None:
    """A policy reaches this role through a role that it is a member of."""
    scratch.make_role("staff")
    scratch.run(
        f"{BARE} GRANT staff TO crm_user; CREATE POLICY p ON app.docs TO staff USING ({MINE})"
    )

    assert check(scratch) == []


def test_a_table_without_users_and_policies_is_revoked(scratch: Scratch) -> None:
    """Where no column tells the user, the mend of a missing policy is to take the grant."""
    scratch.run(
        "CREATE TABLE app.odd (id int); GRANT SELECT (id) ON app.odd TO PUBLIC;"
        "ALTER TABLE app.odd ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"
    )
    (finding,) = check(scratch)

    assert (finding.rule, finding.fix) == ("no-policy", "REVOKE ALL ON app.odd FROM PUBLIC;")
    assert mend(scratch) == []


def test_a_sound_restrictive_policy_makes_a_lax_one_harmless(scratch: Scratch) -> None:
    """True for all, and restricted to the user, is the user's rows."""
    scratch.run(
        f"{BARE} CREATE POLICY all_rows ON app.docs USING (true);"
        f"CREATE POLICY mine ON app.docs AS RESTRICTIVE USING ({MINE})"
    )

    assert check(scratch) == []


@pytest.mark.parametrize(
    "restrictive",
    [f"FOR SELECT USING ({MINE})", "USING (body IS NOT NULL)", f"USING ({MINE}) WITH CHECK (true)"],
)
def test_an_unsound_restrictive_policy_is_no_excuse(scratch: Scratch, restrictive: str) -> None:
    """One that leaves out a command, or asks nothing about the user, restrains nothing."""
    scratch.run(
        f"{BARE} CREATE POLICY all_rows ON app.docs USING (true);"
        f"CREATE POLICY lax ON app.docs AS RESTRICTIVE {restrictive}"
    )

    assert rules(scratch) == [("policy-always-true", "policy all_rows on app.docs")]


def test_restrictive_policies_alone_show_nothing(scratch: Scratch) -> None:
    """They take away from what permissive ones give, and here none gives."""
    scratch.run(f"{BARE} CREATE POLICY mine ON app.docs AS RESTRICTIVE USING ({MINE})")

    assert rules(scratch) == [("no-policy", "app.docs")]


@pytest.mark.parametrize(
    "expression",
    [
        f"{SETTING} = '' OR {MINE}",
        f"'' = {SETTING} OR {MINE}",
        f"{MINE} OR (SELECT {SETTING}) IS NULL",
        f"COALESCE({SETTING}, '') = '' OR {MINE}",
        f"NULLIF({SETTING}, '') IS NULL OR false OR {MINE}",
        f"{MINE} OR (({SETTING} IS NULL) AND ({SETTING} IS NULL))",
        f"body IS NOT NULL AND ({SETTING} IS NULL OR {MINE})",
        f"COALESCE({MINE}, true)",
        f"user_id = COALESCE({USER}, user_id)",
        f"({MINE}) IS NOT FALSE",
        f"CASE WHEN (SELECT {SETTING}) IS NULL THEN true ELSE {MINE} END",
    ],
)
def test_every_way_to_open_without_context_is_found(scratch: Scratch, expression: str) -> None:
    """Whatever the wording, rows that show when no user is set are found, and hidden again."""
    scratch.run(policy(expression) + "INSERT INTO app.docs VALUES (gen_random_uuid(), 'x')")
    assert shown_without_context(scratch) == 1
    assert [finding.rule for finding in check(scratch)] == ["policy-open-without-context"]
    assert mend(scratch) == []
    assert shown_without_context(scratch) == 0


@pytest.mark.parametrize(
    "expression",
    [
        f"{MINE} AND (SELECT {SETTING}) IS NOT NULL",
        f"user_id = (SELECT NULLIF({SETTING}, '')::uuid) AND body <> ''",
        f"{USER} = user_id",
        f"{MINE} AND ((SELECT {SETTING}) IS NULL OR body = 'x')",
        f"user_id = ANY (ARRAY(SELECT NULLIF({SETTING}, '')::uuid))",
        "user_id = (SELECT CAST(NULLIF(current_setting('APP.Current_User_Id', true), '') AS uuid))",
        "false",
    ],
)
def test_sound_policies_of_other_forms_are_clean(scratch: Scratch, expression: str) -> None:
    """Conditions beside the user's, either side, and arrays are no faults."""
    scratch.run(policy(expression))

    assert check(scratch) == []


@pytest.mark.parametrize("expression", ["1 = 1", "body = 'a' OR true", "user_id = user_id"])
def test_true_in_disguise_is_true(scratch: Scratch, expression: str) -> None:
    """Constants and a column that equals itself let every row pass."""
    scratch.run(policy(expression))

    assert rules(scratch) == [("policy-always-true", "policy mine on app.docs")]
    assert mend(scratch) == []


@pytest.mark.parametrize(
    "expression", ["body = current_user", f"(SELECT {SETTING}) <> ''", "body IS NOT NULL"]
)
def test_policies_that_do_not_compare_the_row_with_the_setting(
    scratch: Scratch, expression: str
) -> None:
    """Roles, other columns, or asking only whether anybody is there, tell no user's rows apart."""
    scratch.run(policy(expression))

    assert rules(scratch) == [("policy-ignores-setting", "policy mine on app.docs")]
    assert mend(scratch) == []


def test_leaning_on_another_tables_rls_is_sound(scratch: Scratch) -> None:
    """A policy that asks a protected table sees only what that table's policies show."""
    scratch.run(
        CLEAN + "ALTER TABLE app.docs ADD UNIQUE (body), ALTER body SET NOT NULL;"
        "REVOKE INSERT, UPDATE ON app.docs FROM crm_user;"
        "CREATE TABLE app.lines (doc text); GRANT SELECT ON app.lines TO crm_user;"
        "ALTER TABLE app.lines ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
        "CREATE POLICY p ON app.lines USING (doc IN (SELECT body FROM app.docs))"
    )

    assert check(scratch) == []


def test_leaning_on_rows_that_users_may_name_themselves_is_not(scratch: Scratch) -> None:
    """Where a user may add the row that another's row is looked up by, they see that row."""
    scratch.run(
        CLEAN + "CREATE TABLE app.lines (doc text); GRANT SELECT ON app.lines TO crm_user;"
        "ALTER TABLE app.lines ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
        "CREATE POLICY p ON app.lines USING (doc IN (SELECT body FROM app.docs))"
    )

    assert rules(scratch) == [("self-enrolment", "app.docs")]
    assert mend(scratch) == []


def test_rows_shared_for_reading_may_not_be_changed(scratch: Scratch) -> None:
    """What an owner shows to all is shared; where all may change it too, it is found."""
    shown = f"{MINE} OR body = 'public'"
    scratch.run(f"{CLEAN} CREATE POLICY shown ON app.docs FOR SELECT USING ({shown})")
    assert check(scratch) == []

    scratch.run(f"DROP POLICY shown ON app.docs; ALTER POLICY mine ON app.docs USING ({shown})")
    (finding,) = check(scratch)

    assert (finding.rule, finding.severity) == ("policy-passes-other-rows", "leak")
    assert "body='public'" in finding.why
    assert "FOR SELECT" in finding.fix, "reading stays"
    assert mend(scratch) == []


def test_two_faults_in_one_policy_are_mended_by_either(scratch: Scratch) -> None:
    """Each mend takes away both, so that running them one after the other undoes nothing."""
    scratch.run(policy(f"body IS NOT NULL AND user_id = {SETTING}::uuid"))
    first, second = check(scratch)

    assert (first.rule, second.rule) == ("cast-without-nullif", "evaluated-per-row")
    assert first.fix == second.fix
    assert "body IS NOT NULL" in first.fix
    assert mend(scratch) == []


@pytest.mark.parametrize(
    "cast", [f"user_id::text = (SELECT {SETTING})", "user_id::text = (SELECT app.uid()::text)"]
)
def test_a_cast_of_the_column_makes_its_index_useless(scratch: Scratch, cast: str) -> None:
    """The mend casts the setting instead of the column."""
    scratch.run(HELPER + policy(cast))

    assert rules(scratch) == [("policy-column-without-index", "policy mine on app.docs")]
    assert mend(scratch) == []


def test_a_sub_select_that_reads_the_row_runs_per_row(scratch: Scratch) -> None:
    """One that joins with the row is no InitPlan: the setting in it needs its own."""
    scratch.run(
        policy(
            "EXISTS (SELECT FROM app.docs d WHERE d.body = docs.body "
            f"AND d.user_id = NULLIF({SETTING}, '')::uuid)"
        )
    )

    assert rules(scratch) == [
        # Of its own table, which no policy can read.
        ("policy-raises", "app.docs"),
        ("evaluated-per-row", "policy mine on app.docs"),
    ]
    (left,) = mend(scratch)
    assert left.startswith("note: policy-raises")


def test_a_varchar_column_keeps_its_index(scratch: Scratch) -> None:
    """PostgreSQL prints a cast of varchar to text, which is none: nothing to find."""
    scratch.run(
        BARE.replace("user_id uuid", "user_id varchar(40)")
        + f"CREATE POLICY p ON app.docs USING (user_id = (SELECT {SETTING}))"
    )

    assert check(scratch) == []


@pytest.mark.parametrize(
    "index",
    ["(body, user_id)", "(user_id) WHERE body IS NOT NULL", "USING brin (user_id)"],
)
def test_an_index_that_cannot_serve_does_not_count(scratch: Scratch, index: str) -> None:
    """The column must lead a whole index that finds equal values."""
    scratch.run(CLEAN.replace(INDEX, f"CREATE INDEX ON app.docs {index};"))

    assert rules(scratch) == [("policy-column-without-index", "app.docs")]


def test_the_settings_name_is_the_callers(scratch: Scratch) -> None:
    """Policies on another setting are right when that is the one asked for."""
    scratch.run(policy("user_id = (SELECT NULLIF(current_setting('my.tenant', true), '')::uuid)"))
    with scratch.connect() as connection:
        assert check_rls(connection, "my.tenant") == []


def test_the_only_policy_of_a_table_is_not_dropped(scratch: Scratch) -> None:
    """Where no column tells whose a row is, the reader is told; one policy of several goes."""
    table = TABLE.replace("user_id uuid NOT NULL", "facts jsonb") + GRANT + RLS
    scratch.run(table + "CREATE POLICY lax ON app.docs USING (true)")
    (finding,) = check(scratch)

    assert finding.rule == "policy-always-true"
    assert finding.fix.startswith("-- no column of app.docs tells whose a row is")

    scratch.run("CREATE POLICY own ON app.docs USING (facts ->> 'user_id' = " + SETTING + ")")
    fixes = {f.object: f.fix for f in check(scratch)}
    assert fixes["policy lax on app.docs"] == "DROP POLICY lax ON app.docs;"


def test_a_child_gets_the_policy_that_its_parent_gives_it(scratch: Scratch) -> None:
    """A lax policy on rows that belong to a parent's is replaced by a look at the parent."""
    scratch.run(
        CLEAN + "ALTER TABLE app.docs ADD id uuid PRIMARY KEY;"
        "CREATE TABLE app.lines (doc_id uuid NOT NULL REFERENCES app.docs, body text);"
        "ALTER TABLE app.lines ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
        "GRANT SELECT, INSERT ON app.lines TO crm_user; CREATE POLICY lax ON app.lines USING (true)"
    )
    (finding,) = [f for f in check(scratch) if f.severity == "leak"]

    assert finding.object == "policy lax on app.lines"
    assert finding.fix.startswith("ALTER POLICY lax ON app.lines USING (EXISTS (SELECT FROM ")
    scratch.run(finding.fix)
    assert [str(f) for f in check(scratch) if f.severity in ("leak", "risk")] == []


@pytest.mark.parametrize(
    "expression",
    [
        f"body IN (SELECT d.body FROM app.docs d WHERE d.user_id = {USER})",
        f"{MINE} AND (SELECT {SETTING})::int > 0",
        f"(SELECT {SETTING})::jsonb ->> 'sub' = user_id::text",
    ],
    ids=["recursion", "cast to a number", "cast to JSON"],
)
def test_policies_that_raise_for_every_user_are_told(scratch: Scratch, expression: str) -> None:
    """A query of a valid user fails, and a note says so."""
    scratch.run(policy(expression))
    user = "7a7a7a7a-1111-4111-8111-a1a1a1a1a111"
    scratch.run(f"INSERT INTO app.docs VALUES ('{user}', 'text')")

    assert ("policy-raises", "app.docs") in rules(scratch)
    with scratch.connect() as connection:
        connection.execute("SELECT set_config('app.current_user_id', %s, false)", (user,))
        with pytest.raises(psycopg.Error) as caught:
            connection.execute("TABLE app.docs")
    assert caught.value.sqlstate in {"42P17", "22P02"}


def test_a_policy_that_raises_for_others_alone_is_not_told(scratch: Scratch) -> None:
    """Whoever has a value that the cast takes finds their rows."""
    scratch.run(policy(f"{MINE} AND (user_id::text < 'b' OR body::int > 0)"))

    assert "policy-raises" not in [rule for rule, _ in rules(scratch)]

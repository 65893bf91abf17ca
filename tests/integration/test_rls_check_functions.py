"""The linter on functions: those that policies call, and those that pass policies by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from clients._rls import evaluate
from clients._rls.check import check_rls
from tests.rls_tables import (
    BARE,
    CLEAN,
    DEFINER,
    HELPER,
    SETTING,
    check,
    mend,
    policy,
    rules,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.rls_databases import Scratch

pytestmark = pytest.mark.usefixtures("empty_schema")


def test_a_helper_function_in_a_sub_select_is_clean(scratch: Scratch) -> None:
    """A function whose source reads the setting, or calls one that does, serves as well."""
    scratch.run(
        HELPER + "CREATE FUNCTION app.me() RETURNS uuid LANGUAGE plpgsql STABLE "
        "AS 'BEGIN RETURN app.uid(); END';"
        "CREATE FUNCTION app.atomic() RETURNS uuid STABLE RETURN app.me();"
        + policy("user_id = (SELECT app.uid())")
        + "CREATE POLICY b ON app.docs USING (user_id = (SELECT app.me()));"
        "CREATE POLICY c ON app.docs USING (user_id = (SELECT app.atomic()))"
    )

    assert check(scratch) == []


def test_a_helper_function_without_a_sub_select_runs_per_row(scratch: Scratch) -> None:
    """The mend puts the sub-select round the call and leaves the rest."""
    scratch.run(HELPER + policy("user_id = app.uid()"))
    (finding,) = check(scratch)

    assert finding.rule == "evaluated-per-row"
    assert "(SELECT app.uid())" in finding.fix
    assert mend(scratch) == []


def test_a_helper_function_that_casts_without_nullif_is_mended_itself(scratch: Scratch) -> None:
    """The fault lies in the function's source, and so does the mend."""
    scratch.run(
        HELPER.replace(f"NULLIF({SETTING}, '')", SETTING) + policy("user_id = (SELECT app.uid())")
    )
    (finding,) = check(scratch)

    assert (finding.rule, finding.object) == ("cast-without-nullif", "function app.uid()")
    assert mend(scratch) == []


def test_a_helper_function_that_ignores_the_setting_is_seen_through(scratch: Scratch) -> None:
    """A function that reads another setting is no better than reading it in the policy."""
    helper = HELPER.replace("current_user_id", "user_id")
    scratch.run(helper + policy("user_id = (SELECT app.uid())"))

    assert rules(scratch) == [("setting-not-in-identity", "policy mine on app.docs")]


@pytest.mark.parametrize(
    "body",
    [
        "LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN EXECUTE 'SELECT 1'; RETURN 1; END $$",
        "LANGUAGE sql SECURITY DEFINER AS 'SELECT app.hidden()'",
        "LANGUAGE sql SECURITY DEFINER BEGIN ATOMIC SELECT count(*)::int FROM app.docs; END",
        "LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*)::int FROM app.seen'",
    ],
    ids=["dynamic SQL", "through another function", "SQL body", "through a view"],
)
def test_definer_functions_that_may_read_protected_rows(scratch: Scratch, body: str) -> None:
    """What may reach a protected table is found, by whatever way."""
    scratch.run(
        CLEAN + "CREATE VIEW app.seen AS SELECT * FROM app.docs;"
        "CREATE FUNCTION app.hidden() RETURNS int LANGUAGE sql "
        "AS 'SELECT count(*)::int FROM app.docs';"
        f"CREATE FUNCTION app.leak() RETURNS int {body}"
    )

    assert rules(scratch) == [("security-definer", "function app.leak()")]
    assert mend(scratch) == []


def test_definer_functions_of_bound_owners_are_harmless(scratch: Scratch) -> None:
    """RLS binds a plain role, and with FORCE the table's owner; without it the owner passes."""
    scratch.make_role("bound")
    scratch.run(
        CLEAN + DEFINER + "ALTER FUNCTION app.leak() OWNER TO bound;"
        "GRANT USAGE ON SCHEMA app TO bound; GRANT SELECT ON app.docs TO bound"
    )

    assert check(scratch) == []
    scratch.run("ALTER TABLE app.docs OWNER TO bound")
    assert check(scratch) == []
    scratch.run("ALTER TABLE app.docs NO FORCE ROW LEVEL SECURITY")
    assert rules(scratch) == [
        ("rls-not-forced", "app.docs"),
        ("security-definer", "function app.leak()"),
    ]


def test_a_schema_of_the_tables_name_is_no_column(scratch: Scratch) -> None:
    """A helper in a schema that is called like the table still runs once for the statement."""
    scratch.run(
        'CREATE SCHEMA "Od\'d"; GRANT USAGE ON SCHEMA "Od\'d" TO crm_user;'
        + (HELPER + BARE).replace("app.uid", '"Od\'d".uid').replace("app.docs", 'app."Od\'d"')
        + 'CREATE POLICY p ON app."Od\'d" USING (user_id = (SELECT "Od\'d".uid()))'
    )

    assert check(scratch) == []


def test_a_name_within_another_name_is_not_a_call(scratch: Scratch) -> None:
    """A function that calls my_uid() does not thereby call uid(), nor read a longer setting."""
    scratch.run(
        HELPER + "CREATE FUNCTION app.my_uid() RETURNS uuid LANGUAGE sql STABLE AS $$ "
        "SELECT NULLIF(current_setting('app.current_user_id2', true), '')::uuid $$;"
        "CREATE FUNCTION app.me() RETURNS uuid LANGUAGE sql STABLE AS 'SELECT app.my_uid()';"
        + policy("user_id = (SELECT app.me())")
    )

    assert rules(scratch) == [("setting-not-in-identity", "policy mine on app.docs")]


def test_it_takes_few_round_trips_and_prepares_nothing(scratch: Scratch, tmp_path: Path) -> None:
    """One message reads the catalogue, one the role, and one evaluates sixteen tables' policies."""
    scratch.run(CLEAN)
    for number in range(15):
        scratch.run(CLEAN.replace("app.docs", f"app.docs_{number}"))
    with scratch.connect() as connection:
        for _ in range(6):
            check_rls(connection)
        with (tmp_path / "trace").open("w+") as trace:
            connection.pgconn.trace(trace.fileno())
            check_rls(connection)
            connection.pgconn.untrace()
            trace.seek(0)
            sent = [line.split("\t", 3)[-1] for line in trace if "\tF\t" in line]
        jit = connection.execute("SHOW jit").fetchone()
        prepared = connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchone()

    assert prepared == (0,)
    assert jit == ("on",)
    # With parameters it is Parse to Sync, and one round trip as well.
    assert sum(line.split()[0] in {"Query", "Sync"} for line in sent) == 3
    assert "SET LOCAL jit = off" in sent[0], "compiling the query would take seconds"


def test_what_raises_an_error_of_its_own_shows_nothing(scratch: Scratch) -> None:
    """A helper may raise any SQLSTATE while nobody is set, and is judged all the same."""
    scratch.run(
        "CREATE FUNCTION app.me() RETURNS uuid LANGUAGE plpgsql STABLE AS $$ BEGIN "
        f"IF COALESCE({SETTING}, '') = '' THEN RAISE EXCEPTION 'no' USING ERRCODE = '28000'; "
        f"END IF; RETURN NULLIF({SETTING}, '')::uuid; END $$;"
        + policy("user_id = (SELECT app.me())")
    )

    assert rules(scratch) == []


@pytest.mark.slow
def test_a_function_that_takes_too_long_leaves_time_for_other_tables(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy that calls it is not proven, and the one beside it is judged."""
    monkeypatch.setattr(evaluate, "EVALUATION_SECONDS", 8.0)
    scratch.run(
        "CREATE FUNCTION app.slow() RETURNS boolean LANGUAGE sql AS 'SELECT pg_sleep(60) IS NULL';"
        + policy("app.slow() AND user_id IS NOT NULL")
        + policy("user_id IS NOT NULL").replace("app.docs", "app.others")
    )

    assert rules(scratch) == [
        ("policy-not-proven", "policy mine on app.docs"),
        ("policy-always-true", "policy mine on app.others"),
    ]

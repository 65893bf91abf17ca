"""check_rls() reads the functions of a signed identity as what they return."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from clients._rls.check import check_rls
from tests.postgres_faults import superuser
from tests.signed_databases import SETTING, SignedDatabase, make_signed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clients import Finding
    from utils._stack.postgres import PostgresServer

SIGNED = f"(SELECT failfast.identity_uuid('{SETTING}'))"
PLAIN = f"(SELECT NULLIF(current_setting('{SETTING}', true), '')::uuid)"
OBJECTS = (
    "public.plain_notes",
    "public.signed_notes",
    "failfast.identity_keys",
)


@pytest.fixture
def database(fault_server: PostgresServer) -> Iterator[SignedDatabase]:
    """Two tables whose policies are both signed."""
    made = make_signed(fault_server)
    run(made, *(f"CREATE INDEX ON {name} (user_id)" for name in ("plain_notes", "signed_notes")))
    policy(made, f"user_id = {SIGNED}", table="plain_notes")
    yield made
    run(made, "DROP SCHEMA failfast CASCADE", "DROP TABLE plain_notes, signed_notes")


def run(database: SignedDatabase, *statements: str) -> None:
    """Run statements as the owner."""
    with superuser(database.server) as conn:
        for statement in statements:
            conn.execute(statement.encode())


def policy(database: SignedDatabase, clause: str, table: str = "signed_notes") -> None:
    """Replace a table's policy."""
    run(
        database,
        f"DROP POLICY IF EXISTS own ON {table}",
        f"CREATE POLICY own ON {table} USING ({clause}) WITH CHECK ({clause})",
    )


def found(database: SignedDatabase) -> list[Finding]:
    """Return the findings about our objects, and about functions of theirs."""
    with psycopg.connect(database.server.url("crm_user", "secret"), autocommit=True) as conn:
        return [
            one
            for one in check_rls(conn)
            if one.object.endswith(OBJECTS) or "notes" in one.object or "failfast" in one.object
        ]


def mend_all(database: SignedDatabase) -> None:
    """Run the SQL of all findings, as it stands."""
    run(database, *(one.fix for one in found(database)))


def test_signed_policies_are_sound(database: SignedDatabase) -> None:
    """Policies that call the functions in a sub-select are judged, and have nothing wrong."""
    assert found(database) == []


@pytest.mark.parametrize(
    ("clause", "rule"),
    [
        (f"user_id = failfast.identity_uuid('{SETTING}')", "evaluated-per-row"),
        (f"user_id = {SIGNED} OR true", "policy-always-true"),
        (f"user_id = {SIGNED} OR {SIGNED} IS NULL", "policy-open-without-context"),
        (f"user_id >= {SIGNED}", "policy-passes-other-rows"),
    ],
)
def test_a_signed_policy_that_leaks_is_found_and_stays_signed(
    database: SignedDatabase, clause: str, rule: str
) -> None:
    """What is wrong with a policy is seen through the function, and its SQL calls the function."""
    policy(database, clause)
    [finding] = found(database)
    assert (finding.rule, finding.object) == (rule, "policy own on public.signed_notes")
    assert f"failfast.identity_uuid('{SETTING}'::text)" in finding.fix
    assert "current_setting" not in finding.fix
    mend_all(database)
    assert found(database) == []


def test_a_policy_that_reads_the_plain_setting_beside_it_is_found(
    database: SignedDatabase,
) -> None:
    """One plain policy is the way around all signed ones; its SQL makes it one of them."""
    policy(database, f"user_id = {PLAIN}", table="plain_notes")
    [finding] = found(database)
    assert (finding.rule, finding.severity) == ("identity-not-signed", "leak")
    assert finding.object == "policy own on public.plain_notes"
    mend_all(database)
    assert found(database) == []


@pytest.mark.parametrize(
    ("read", "fixes"),
    [
        (f"current_setting('{SETTING.upper()}', true)", 1),
        (f"pg_catalog.current_setting('{SETTING}'::text)", 1),
        ("current_setting('app.' || 'current_user_id', true)", 0),
        ("current_setting(lower('APP.CURRENT_USER_ID'), true)", 0),
        (f"(SELECT setting FROM pg_settings WHERE name = '{SETTING}')", 0),
        (f"(SELECT setting FROM pg_show_all_settings() WHERE name = '{SETTING}')", 0),
    ],
)
def test_another_spelling_of_the_plain_setting_is_found(
    database: SignedDatabase, read: str, fixes: int
) -> None:
    """A policy that reads the setting in other words is as plain; where it can, its SQL signs."""
    policy(database, f"user_id = (SELECT NULLIF({read}, '')::uuid)", table="plain_notes")
    [finding] = [one for one in found(database) if one.rule == "identity-not-signed"]
    assert finding.object == "policy own on public.plain_notes"
    assert finding.fix.count("ALTER POLICY") == fixes
    if fixes:
        mend_all(database)
        assert found(database) == []


def test_a_function_that_reads_the_plain_setting_beside_it_is_found(
    database: SignedDatabase,
) -> None:
    """A function that takes the plain value is told, without SQL: what it is for is not known."""
    run(
        database,
        "CREATE FUNCTION public.notes_of() RETURNS text LANGUAGE sql STABLE AS"
        f" $$SELECT current_setting('{SETTING.title()}', true)$$",
    )
    try:
        assert [(one.rule, one.fix) for one in found(database)] == [("identity-not-signed", "")]
    finally:
        run(database, "DROP FUNCTION public.notes_of()")


def test_a_plain_database_is_no_finding(database: SignedDatabase) -> None:
    """Where no policy calls the functions, the plain setting is what is meant."""
    for table in ("plain_notes", "signed_notes"):
        policy(database, f"user_id = {PLAIN}", table=table)
    assert found(database) == []


@pytest.mark.parametrize("right", ["SELECT", "UPDATE (inner_block)", "TRUNCATE", "TRIGGER"])
def test_a_granted_key_is_found(database: SignedDatabase, right: str) -> None:
    """A role that was given the table of keys is told, though row-level security hides its row."""
    run(database, f"GRANT {right} ON failfast.identity_keys TO crm_user")
    [finding] = found(database)
    assert (finding.rule, finding.object) == ("identity-key-granted", "failfast.identity_keys")
    mend_all(database)
    assert found(database) == []


def test_a_function_that_only_bears_the_name_is_judged_as_any_other(
    database: SignedDatabase,
) -> None:
    """A function that checks nothing is not taken for one of ours."""
    run(
        database,
        "CREATE OR REPLACE FUNCTION failfast.identity_uuid(setting text) RETURNS uuid"
        " LANGUAGE sql STABLE SECURITY DEFINER AS"
        " $$SELECT '00000000-0000-4000-8000-00000000000a'::uuid$$",
    )
    assert any(one.object.startswith("function failfast.identity_") for one in found(database))

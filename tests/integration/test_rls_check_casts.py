"""The linter on policies that take two users for one: by a cast, or by a part of the id."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from clients import RlsSetting
from clients._rls.check import Finding, check_rls
from tests.rls_tables import GRANT, RLS

if TYPE_CHECKING:
    from tests.rls_databases import Scratch

pytestmark = pytest.mark.usefixtures("empty_schema")

READ = "NULLIF(current_setting('shop.user', true), '')"
BIG = ("9007199254740992", "9007199254740993")
INTEGERS = ("16777216", "16777217")
LONG = "ab" * 40

# The column's type, the policy, and two users whom it takes for one.
FOLDED: dict[str, tuple[type, str, str, tuple[str, str]]] = {
    "double": (int, "bigint", f"user_id::double precision = {READ}::double precision", BIG),
    "double of one side": (int, "bigint", f"user_id = {READ}::double precision", BIG),
    "real": (int, "bigint", f"user_id::real = {READ}::real", BIG),
    "real of integers": (int, "integer", f"user_id = {READ}::real", INTEGERS),
    "float4 as a function": (int, "bigint", f"float4(user_id) = float4({READ}::bigint)", BIG),
    "column of doubles": (int, "double precision", f"user_id = {READ}::double precision", BIG),
    "square root": (int, "bigint", f"sqrt(user_id) = sqrt({READ}::bigint)", BIG),
    "negative scale": (int, "bigint", f"user_id::numeric(20,-2) = {READ}::numeric(20,-2)",
                       ("7001", "7002")),
    "division": (int, "bigint", f"user_id / 10 = {READ}::bigint / 10", ("7001", "7002")),
    "absolute value": (int, "bigint", f"abs(user_id) = abs({READ}::bigint)", ("7001", "-7001")),
    "varchar(3)": (str, "text", f"user_id::varchar(3) = {READ}::varchar(3)", ("Ann", "Annb")),
    "varchar(20)": (str, "text", f"user_id::varchar(20) = {READ}::varchar(20)",
                    (LONG + "x", LONG + "y")),
    "char": (str, "text", f"user_id::char = {READ}::char", ("Ann", "Abe")),
    "character(12)": (str, "text", f"user_id::char(12) = {READ}::char(12)",
                      (LONG + "x", LONG + "y")),
    "blanks at the end": (str, "text", f"user_id::bpchar = {READ}::bpchar", ("Ann", "Ann ")),
    "one byte": (str, "text", f'user_id::"char" = {READ}::"char"', ("Ann", "Abe")),
    "name": (str, "text", f"user_id::name = {READ}::name", (LONG + "x", LONG + "y")),
    "column of names": (str, "name", f"user_id = {READ}::name", (LONG + "x", LONG + "y")),
    "first characters": (str, "text", f"left(user_id, 24) = left({READ}, 24)",
                         (LONG + "x", LONG + "y")),
    "last characters": (str, "text", f"right(user_id, 24) = right({READ}, 24)",
                        ("x" + LONG, "y" + LONG)),
    "characters between": (str, "text", f"substr(user_id, 2, 30) = substr({READ}, 2, 30)",
                           (LONG + "x", LONG + "y")),
    "first part": (str, "text", f"split_part(user_id, '|', 1) = split_part({READ}, '|', 1)",
                   ("auth0|ann", "auth0|bob")),
    "last part": (str, "text", f"split_part(user_id, '|', -1) = split_part({READ}, '|', -1)",
                  ("one|ann", "two|ann")),
}  # fmt: skip
TOLD_APART: dict[str, tuple[type, str, str]] = {
    "numeric": (int, "bigint", f"user_id::numeric = {READ}::numeric"),
    "numeric of a scale": (int, "bigint", f"user_id::numeric(30,4) = {READ}::numeric(30,4)"),
    "text": (int, "bigint", f"user_id::text = {READ}"),
    "integer": (int, "integer", f"user_id = {READ}::integer"),
    "double of integers": (int, "integer", f"user_id::double precision = {READ}::double precision"),
    "longer than the column": (str, "varchar(36)", f"user_id::varchar(64) = {READ}::varchar(64)"),
    "varchar": (str, "text", f"user_id::varchar = {READ}::varchar"),
    "a number beside it": (str, "text", f"user_id = {READ} AND length(user_id) < 40"),
    "a part and the whole": (
        str, "text", f"user_id = {READ} AND split_part(user_id, '|', 1) <> ''",
    ),
}  # fmt: skip


def found(scratch: Scratch, kind: type, column: str, expression: str) -> list[Finding]:
    """Return what leaks of a table with such a column and policy, or is not proven."""
    scratch.run(
        f"CREATE TABLE app.docs (user_id {column} NOT NULL, body text); CREATE INDEX ON app.docs "
        f"(user_id); {GRANT} {RLS} CREATE POLICY mine ON app.docs USING ({expression})"
    )
    with scratch.connect() as connection:
        findings = check_rls(connection, {"user_id": RlsSetting("shop.user", kind)})
    return [f for f in findings if f.severity in ("leak", "risk")]


@pytest.mark.parametrize("way", FOLDED)
def test_a_policy_that_takes_two_ids_for_one_leaks(scratch: Scratch, way: str) -> None:
    """One user sees the other's row, and a finding shows two such users."""
    kind, column, expression, (one, other) = FOLDED[way]
    findings = found(scratch, kind, column, expression)
    with scratch.connect() as connection, connection.transaction():
        connection.execute("SELECT set_config('shop.user', %s, true)", (one,))
        connection.execute("INSERT INTO app.docs VALUES (%s, 'text')", (kind(one),))
        connection.execute("SELECT set_config('shop.user', %s, true)", (other,))
        seen = connection.execute("SELECT count(*) FROM app.docs").fetchone()

    assert seen == (1,)
    assert [(f.rule, f.severity) for f in findings] == [("policy-passes-other-rows", "leak")]


@pytest.mark.parametrize("way", TOLD_APART)
def test_a_policy_that_tells_all_ids_apart_is_clean(scratch: Scratch, way: str) -> None:
    """A cast that keeps what differs is no leak, and is proven."""
    assert [str(finding) for finding in found(scratch, *TOLD_APART[way])] == []


def test_one_value_of_two_that_takes_two_for_one_is_found(scratch: Scratch) -> None:
    """Tenants that are one number to the policy see each other's rows of the same user."""
    read = "NULLIF(current_setting('shop.tenant', true), '')"
    scratch.run(
        "CREATE TABLE app.docs (tenant_id bigint NOT NULL, user_id text NOT NULL);"
        f"CREATE INDEX ON app.docs (tenant_id, user_id); {GRANT} {RLS}"
        f"CREATE POLICY mine ON app.docs USING (tenant_id::float8 = {read}::float8 "
        f"AND user_id = {READ})"
    )
    identity = {
        "tenant_id": RlsSetting("shop.tenant", int),
        "user_id": RlsSetting("shop.user", str),
    }
    with scratch.connect() as connection:
        findings = check_rls(connection, identity)

    assert [f.rule for f in findings if f.severity in ("leak", "risk")] == [
        "policy-partial-identity"
    ]

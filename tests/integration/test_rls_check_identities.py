"""check_rls() through clients of several identities: tenants, text ids, claims and roles."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from clients.identity import RlsSetting
from tests.identity_examples import TENANTS

if TYPE_CHECKING:
    from tests.identity_examples import Example, NewClientOf


def test_the_examples_are_clean(example: Example, client_of: NewClientOf) -> None:
    """Each schema, checked with its client's own settings and role, has no finding."""
    # The fault tests' own table has no index, for it holds few rows.
    found = [f for f in client_of().check_rls() if f.object != "public.ledger"]

    assert [str(finding) for finding in found] == []


_OPEN = {
    "users": "user_id <> (SELECT NULLIF(current_setting('app.current_user_id', true), '')::uuid)",
    "tenants": "tenant_id <> (SELECT NULLIF(current_setting('shop.tenant_id', true), '')::bigint)",
    "supabase": "(SELECT auth.uid()) IS NOT NULL",
}


def test_a_hole_is_found_and_its_fix_fits_the_types(
    example: Example, client_of: NewClientOf
) -> None:
    """A lax policy beside the sound one is found, and its SQL compares each column as its type."""
    table, expression = "notes", _OPEN[example.name]
    client, superuser = client_of(), client_of.superuser()
    superuser.execute(f"CREATE POLICY lax ON {table} USING ({expression})".encode())
    try:
        (finding,) = (f for f in client.check_rls() if f.severity == "leak")
        assert (finding.object, finding.severity) == (f"policy lax on public.{table}", "leak")

        superuser.execute(finding.fix.encode())
        assert [f for f in client.check_rls() if f.severity == "leak"] == []
        client.execute(f"SELECT FROM {table}", identity=example.identities[0])
    finally:
        superuser.execute(f"DROP POLICY lax ON {table}".encode())


@pytest.mark.parametrize("example", [TENANTS], indirect=True, ids=["tenants"])
@pytest.mark.parametrize(
    ("column", "kind", "mine", "other"),
    [
        # "character" alone is of length 1: tenant 12 would be tenant 1.
        ("char(10)", int, 12, 1),
        pytest.param("varchar(10)", int, 12, 1, marks=pytest.mark.slow),
        pytest.param("bigint", int, 12, 1, marks=pytest.mark.slow),
        pytest.param("numeric", int, 12, 1, marks=pytest.mark.slow),
        ("text", UUID, UUID(int=12), UUID(int=1)),
        # Types that cannot have the values: nobody's row shows, and no query fails.
        ("bigint", UUID, UUID(int=12), 1),
        ("uuid", int, 12, UUID(int=1)),
    ],
)
def test_a_fix_holds_for_a_column_of_any_type(
    client_of: NewClientOf, column: str, kind: type, mine: object, other: object
) -> None:
    """Applied, it closes the hole, each query works, and one tenant's row is not another's."""
    superuser = client_of.superuser()
    superuser.execute(f"CREATE TABLE fixed (tenant_id {column} NOT NULL)".encode())
    superuser.execute(f"GRANT SELECT, INSERT ON fixed TO {client_of.example.login}".encode())
    try:
        client = client_of(identity={"tenant_id": RlsSetting("shop.tenant_id", kind)})
        superuser.execute("INSERT INTO fixed VALUES (%s)", (other,))
        is_fit = type(mine) is type(other)
        if is_fit:
            superuser.execute("INSERT INTO fixed VALUES (%s)", (mine,))
        for _ in range(3):
            for finding in [f for f in client.check_rls() if f.object.endswith("public.fixed")]:
                superuser.execute(finding.fix.encode())

        rows = client.execute("SELECT tenant_id FROM fixed", identity={"tenant_id": mine})
        assert [str(row["tenant_id"]).strip() for row in rows] == [str(mine)] * is_fit
        assert [f for f in client.check_rls() if f.object.endswith("public.fixed")] == []
    finally:
        superuser.execute(b"DROP TABLE fixed")


@pytest.mark.parametrize("example", [TENANTS], indirect=True, ids=["tenants"])
def test_one_value_of_two_is_not_enough(example: Example, client_of: NewClientOf) -> None:
    """Where a tenant's policy and a user's are joined by OR, either passes: that is a risk."""
    client, superuser = client_of(), client_of.superuser()
    tenant = "tenant_id = (SELECT NULLIF(current_setting('shop.tenant_id', true), '')::bigint)"
    superuser.execute(f"CREATE POLICY lax ON notes USING ({tenant})".encode())
    try:
        (finding,) = client.check_rls()
        assert (finding.rule, finding.severity) == ("policy-partial-identity", "risk")

        superuser.execute(finding.fix.encode())
        assert client.check_rls() == []
    finally:
        superuser.execute(b"DROP POLICY lax ON notes")


@pytest.mark.parametrize("example", [TENANTS], indirect=True, ids=["tenants"])
@pytest.mark.parametrize(
    ("columns", "own", "foreign"),
    [
        ("id bigint, tenant_id bigint, name text", "tenant_id", "shop.user_id"),
        ("id bigint, user_id text, name text", "user_id", "shop.tenant_id"),
        ("id bigint, tenant_id bigint, user_id bigint", "tenant_id", "shop.user_id"),
    ],
)
def test_a_fix_compares_a_column_with_its_own_value_alone(
    client_of: NewClientOf, columns: str, own: str, foreign: str
) -> None:
    """Applied, the SQL shows an identity its rows, leaves out what has no column, and is clean."""
    client, superuser = client_of(), client_of.superuser()
    identity = client_of.example.identities[0]
    superuser.execute(f"CREATE TABLE fixed ({columns})".encode())
    superuser.execute(f"GRANT SELECT ON fixed TO {client_of.example.login}".encode())
    try:
        for value in (identity[own], 2 if own == "tenant_id" else "auth0|bob"):
            superuser.execute(f"INSERT INTO fixed ({own}) VALUES (%s)".encode(), (value,))
        (finding,) = (f for f in client.check_rls() if f.object == "public.fixed")

        assert foreign not in finding.fix
        assert finding.fix.count("CREATE INDEX") == 1
        superuser.execute(finding.fix.encode())
        rows = client.execute(f"SELECT {own} FROM fixed", identity=identity)
        assert [row[own] for row in rows] == [identity[own]]
        assert [f for f in client.check_rls() if f.object.endswith("public.fixed")] == []
    finally:
        superuser.execute(b"DROP TABLE fixed")


@pytest.mark.parametrize("example", [TENANTS], indirect=True, ids=["tenants"])
def test_no_sql_is_proposed_where_no_value_has_a_column(client_of: NewClientOf) -> None:
    """A column that may be anybody's is named, and the text says what to do."""
    superuser = client_of.superuser()
    superuser.execute(b"CREATE TABLE fixed (owner_id text)")
    superuser.execute(f"GRANT SELECT ON fixed TO {client_of.example.login}".encode())
    try:
        (finding,) = (f for f in client_of().check_rls() if f.object == "public.fixed")
        assert finding.fix == ""
        assert "compares owner_id with tenant_id or user_id" in finding.why
        assert "fix it with" not in str(finding)
    finally:
        superuser.execute(b"DROP TABLE fixed")


@pytest.mark.parametrize("example", [TENANTS], indirect=True, ids=["tenants"])
@pytest.mark.parametrize(
    ("identity", "missing"),
    [
        (None, ["tenant_id=shop.tenant_id:int", "user_id=shop.user_id:str"]),
        ({"tenant_id": RlsSetting("shop.tenant_id", int)}, ["user_id=shop.user_id:str"]),
    ],
)
def test_a_policy_that_reads_settings_of_another_identity_is_left_as_it_is(
    client_of: NewClientOf, identity: dict[str, RlsSetting] | None, missing: list[str]
) -> None:
    """A sound policy gets no SQL: the finding says which identity to give."""
    found = [f for f in client_of(identity=identity).check_rls() if "public.notes" in f.object]

    assert [f.rule for f in found] == ["setting-not-in-identity"]
    assert [f.fix for f in found] == [""]
    assert " ".join(f"--setting {text}" for text in missing) in found[0].why


@pytest.mark.parametrize("example", [TENANTS], indirect=True, ids=["tenants"])
def test_an_open_table_gets_no_policy_for_an_identity_that_no_policy_knows(
    client_of: NewClientOf,
) -> None:
    """Where all policies read other settings, a new policy for this identity is not proposed."""
    superuser = client_of.superuser()
    superuser.execute(b"CREATE TABLE fixed (user_id uuid)")
    superuser.execute(f"GRANT SELECT ON fixed TO {client_of.example.login}".encode())
    try:
        found = client_of(identity=None).check_rls()
        (finding,) = (f for f in found if f.object == "public.fixed")
        assert (finding.rule, finding.fix) == ("rls-disabled", "")
        assert "--setting tenant_id=shop.tenant_id:int" in finding.why
    finally:
        superuser.execute(b"DROP TABLE fixed")

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
        ("varchar(10)", int, 12, 1),
        ("bigint", int, 12, 1),
        ("numeric", int, 12, 1),
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

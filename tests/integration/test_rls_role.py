"""The role check against real roles: who is refused, why, and that the SQL offered mends it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from clients._rls.role import Bypass, find_bypass
from tests.rls_databases import ROLE_PASSWORD, Scratch, scratch_database

if TYPE_CHECKING:
    from collections.abc import Iterator

    from utils._stack.postgres import PostgresServer


@pytest.fixture(scope="module")
def scratch(own_postgres: PostgresServer) -> Iterator[Scratch]:
    with scratch_database(own_postgres, "rls_role") as database:
        yield database


@pytest.fixture(autouse=True)
def _no_roles_left(scratch: Scratch) -> Iterator[None]:
    """Roles live in the whole server, so each test's own go with it."""
    yield
    scratch.drop_roles()


def found(scratch: Scratch, role: str) -> list[Bypass]:
    with scratch.connect(role) as connection:
        return find_bypass(connection)


def assert_refused_until_mended(scratch: Scratch, role: str, kind: str, why: str) -> None:
    """The role has exactly one reason, and the SQL that stands beside it takes it away."""
    (bypass,) = found(scratch, role)

    assert (bypass.kind, bypass.role, bypass.why) == (kind, role, why)
    assert bypass.fix in str(bypass)
    scratch.run(bypass.fix)
    assert found(scratch, role) == []


def test_the_projects_application_role_is_accepted(own_postgres: PostgresServer) -> None:
    """crm_user passes in the database that sql/ made."""
    with psycopg.connect(own_postgres.url("crm_user", "secret")) as connection:
        assert find_bypass(connection) == []


def test_the_projects_admin_role_is_refused(own_postgres: PostgresServer) -> None:
    """crm_admin is found out by its attribute."""
    with psycopg.connect(own_postgres.url("crm_admin", "secret")) as connection:
        assert [bypass.kind for bypass in find_bypass(connection)] == ["bypassrls"]


def test_a_superuser_is_refused_and_mended(scratch: Scratch) -> None:
    """One reason is enough for a superuser, and NOSUPERUSER mends it."""
    scratch.make_role("root like", "SUPERUSER")

    assert_refused_until_mended(
        scratch, "root like", "superuser", 'role "root like" is a superuser'
    )


def test_the_bootstrap_superuser_is_told_to_connect_as_another(
    own_postgres: PostgresServer,
) -> None:
    """It can never lose the attribute, so the mend makes another role."""
    with psycopg.connect(own_postgres.url()) as connection:
        (bypass,) = find_bypass(connection)

        assert bypass.kind == "superuser"
        assert bypass.fix.startswith("CREATE ROLE app_user LOGIN NOSUPERUSER NOBYPASSRLS;")
        connection.execute(bypass.fix.encode())
        connection.rollback()


def test_a_role_with_bypassrls_is_refused_and_mended(scratch: Scratch) -> None:
    """The attribute is named and taken away."""
    scratch.make_role("passer", "BYPASSRLS")

    assert_refused_until_mended(scratch, "passer", "bypassrls", "role passer has BYPASSRLS")


@pytest.mark.parametrize(
    ("attribute", "state"), [("BYPASSRLS", "has BYPASSRLS"), ("SUPERUSER", "is a superuser")]
)
def test_a_member_of_a_bypassing_role_is_refused_and_mended(
    scratch: Scratch, attribute: str, state: str
) -> None:
    """The attribute is not inherited, but SET ROLE reaches the role that has it."""
    scratch.make_role("Group", attribute)
    scratch.make_role("member")
    scratch.run('GRANT "Group" TO member')

    why = f'role member is a member of "Group", which {state}: SET ROLE reaches it'
    assert_refused_until_mended(scratch, "member", "member", why)


@pytest.mark.parametrize("options", ["INHERIT FALSE", "INHERIT FALSE, SET FALSE, ADMIN TRUE"])
def test_a_membership_that_inherits_nothing_counts_too(scratch: Scratch, options: str) -> None:
    """SET ROLE needs no inheritance, and an administrator may grant SET to itself."""
    scratch.make_role("far", "BYPASSRLS")
    scratch.make_role("member")
    scratch.run(f"GRANT far TO member WITH {options}")

    why = "role member is a member of far, which has BYPASSRLS: SET ROLE reaches it"
    assert_refused_until_mended(scratch, "member", "member", why)


def test_a_membership_without_set_reaches_nothing(scratch: Scratch) -> None:
    """BYPASSRLS is not inherited, so without SET ROLE, or the right to grant that, it is far."""
    for name, attributes in (("far", "BYPASSRLS"), ("middle", ""), ("member", "")):
        scratch.make_role(name, attributes)
    scratch.run("GRANT far TO middle; GRANT middle TO member WITH SET FALSE")
    assert found(scratch, "member") == []

    scratch.run("GRANT middle TO member WITH SET FALSE, ADMIN TRUE")
    assert [bypass.kind for bypass in found(scratch, "member")] == ["member"]


def test_an_indirect_membership_is_cut_at_the_roles_own_grant(scratch: Scratch) -> None:
    """Through a group in the middle, the role's own membership of that group goes, no other."""
    scratch.make_role("far", "BYPASSRLS")
    scratch.make_role("middle")
    scratch.make_role("member")
    scratch.run("GRANT far TO middle; GRANT middle TO member")
    (bypass,) = found(scratch, "member")

    assert bypass.fix == "REVOKE middle FROM member;"
    scratch.run(bypass.fix)
    assert found(scratch, "member") == []
    assert [bypass.kind for bypass in found(scratch, "middle")] == ["member"]


def test_two_ways_to_one_role_are_both_cut(scratch: Scratch) -> None:
    """A membership granted twice, by another grantor too, needs both revoked."""
    scratch.make_role("far", "BYPASSRLS")
    scratch.make_role("middle")
    scratch.make_role("member")
    scratch.run(
        "GRANT far TO crm_admin WITH ADMIN OPTION; GRANT far TO middle; GRANT middle TO member;"
        "GRANT far TO member GRANTED BY crm_admin"
    )

    why = "role member is a member of far, which has BYPASSRLS: SET ROLE reaches it"
    assert_refused_until_mended(scratch, "member", "member", why)


def test_an_owner_without_force_is_refused_and_mended(scratch: Scratch) -> None:
    """The table is named with its schema, and FORCE binds the owner."""
    scratch.make_role("owner")
    scratch.run(
        'CREATE SCHEMA "Od"; CREATE TABLE "Od"."ta""ble" (user_id uuid);'
        'ALTER TABLE "Od"."ta""ble" ENABLE ROW LEVEL SECURITY;'
        'ALTER TABLE "Od"."ta""ble" OWNER TO owner'
    )

    why = 'role owner owns "Od"."ta""ble", which does not FORCE ROW LEVEL SECURITY'
    assert_refused_until_mended(scratch, "owner", "owner", why)


def test_a_member_of_the_owner_is_refused_and_mended(scratch: Scratch) -> None:
    """Policies on a table that does not even enable RLS count, and so does membership."""
    scratch.make_role("owner")
    scratch.make_role("member")
    scratch.run(
        "GRANT owner TO member; CREATE TABLE owned (user_id uuid);"
        "CREATE POLICY mine ON owned USING (false); ALTER TABLE owned OWNER TO owner"
    )

    why = (
        "role member is a member of owner, which owns public.owned, "
        "which does not FORCE ROW LEVEL SECURITY"
    )
    assert_refused_until_mended(scratch, "member", "owner", why)


def test_an_owner_of_tables_without_policies_is_accepted(scratch: Scratch) -> None:
    """Owning a table that has nothing to do with row-level security is no bypass."""
    scratch.make_role("owner")
    scratch.run("CREATE TABLE plain (id int); ALTER TABLE plain OWNER TO owner")

    assert found(scratch, "owner") == []


def test_the_login_role_counts_after_set_role(scratch: Scratch) -> None:
    """A bypassing login that acts as a bound role is found, for RESET ROLE goes back to it."""
    scratch.make_role("passer", "BYPASSRLS")
    scratch.run("GRANT crm_user TO passer")
    with scratch.connect("passer") as connection:
        connection.execute("SET ROLE crm_user")

        assert [(bypass.kind, bypass.role) for bypass in find_bypass(connection)] == [
            ("bypassrls", "passer")
        ]


def test_every_reason_is_told_at_once(scratch: Scratch) -> None:
    """A role with two faults gets both, in a stable order."""
    scratch.make_role("both", "BYPASSRLS")
    scratch.run(
        "CREATE TABLE two (user_id uuid); ALTER TABLE two ENABLE ROW LEVEL SECURITY;"
        'ALTER TABLE two OWNER TO "both"'
    )

    assert [bypass.kind for bypass in found(scratch, "both")] == ["bypassrls", "owner"]
    assert ROLE_PASSWORD not in repr(found(scratch, "both"))

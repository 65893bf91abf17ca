"""Rows that belong to a tenant, a user with a text id, or the claims of a token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import pytest

from clients.errors import (
    PostgresConfigurationError,
    PostgresConnectionError,
    PostgresError,
    RlsContextError,
)
from clients.identity import RlsSetting, user_context
from tests.fault_proxy import FaultProxy
from tests.identity_examples import SUPABASE, TENANTS
from tests.postgres_helpers import run_in_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from clients.postgres_client import PostgresClient
    from tests.identity_examples import Example, Identity, NewClientOf

tenants = pytest.mark.parametrize("example", [TENANTS], ids=["tenants"])
supabase = pytest.mark.parametrize("example", [SUPABASE], ids=["supabase"])


def owners(example: Example) -> str:
    return f"SELECT {example.owner} AS owner FROM notes ORDER BY 1"


def seen(client: PostgresClient, example: Example, identity: Identity) -> list[str]:
    return [row["owner"] for row in client.execute(owners(example), **example.given(identity))]


def settings_of(example: Example) -> str:
    columns = ", ".join(
        f"current_setting('{name}', true) AS s{n}" for n, name in enumerate(example.settings)
    )
    return f"SELECT {columns}"


# -- every way to call --


def test_every_method_sees_and_writes_one_identitys_rows(
    example: Example, client_of: NewClientOf
) -> None:
    """Given to the call or ambient, alone or with others that share a part of it."""
    client = client_of(pool_size=1, min_size=1)
    query, insert = owners(example), example.insert
    for identity in example.identities:
        given, key = example.given(identity), example.key(identity)
        row = example.row(identity, identity)
        assert client.execute(query, **given) == [{"owner": key}]
        assert client.execute_one(query, **given) == {"owner": key}
        assert client.execute_scalar(query, **given) == key
        assert client.execute_many(insert, [row, row], **given) == 2
        with client.stream(query, batch_size=2, **given) as rows:
            assert [one["owner"] for one in rows] == [key] * 3
        with client.connection(**given) as conn:
            conn.execute(insert, row)
            assert client.execute_scalar(f"SELECT count(*) FROM ({query}) AS n", **given) == 4
        with user_context(**identity):
            assert client.execute_scalar(query) == key
            with client.connection() as conn:
                assert {one["owner"] for one in conn.execute(query)} == {key}


def test_a_foreign_row_can_be_neither_written_nor_changed(
    example: Example, client_of: NewClientOf
) -> None:
    """Neither another user's of the same tenant nor the same user's of another tenant."""
    client = client_of()
    for me in example.identities:
        for other in example.identities:
            if other == me:
                continue
            foreign = example.row(other, me)
            with pytest.raises(PostgresError) as caught:
                client.execute(example.insert, foreign, **example.given(me))
            assert caught.value.sqlstate == "42501"
            update = f"UPDATE notes SET writer = 'x' WHERE {example.owner} = %s RETURNING 1 AS one"
            assert client.execute(update, (example.key(other),), **example.given(me)) == []


def test_any_number_of_values_costs_one_round_trip(
    example: Example, client_of: NewClientOf
) -> None:
    """Counted on the wire, the first time and the next; role and values travel with the rest."""
    with FaultProxy(client_of.server.port) as proxy:
        url = client_of.url()
        login = f"{example.login}:secret@127.0.0.1:{proxy.port}"
        client = client_of(urlunsplit(urlsplit(url)._replace(netloc=login)), pool_size=1)
        given = example.given(example.identities[0])
        calls: list[tuple[Callable[[], object], int]] = [
            (lambda: client.execute(owners(example), **given), 1),
            (lambda: client.execute_scalar("SELECT 1", **given), 1),
            (lambda: client.execute_admin("SELECT 1 AS one"), 1),
            (lambda: in_a_block(client, given), 3),
        ]
        for call, most in calls * 8:
            proxy.reset_counts()
            call()
            assert proxy.round_trips <= most
        client.close()


def in_a_block(client: PostgresClient, given: dict[str, Any]) -> None:
    with client.connection(**given) as conn:
        conn.execute("SELECT 1")


# -- refusals --


def test_a_refused_identity_takes_no_connection(example: Example, client_of: NewClientOf) -> None:
    """What is missing, unknown or unfit is refused before anything is checked out."""
    client = client_of(pool_size=1)
    before = client.stats()["checkouts"]
    unfit: list[Any] = [
        {},
        {"nobody": 1},
        *(dict.fromkeys(example.identities[0], value) for value in (None, "", "a\0b", 1.5, True)),
        {**example.identities[0], "nobody": 1},
    ]
    for identity in unfit:
        calls: list[Callable[[], object]] = [
            lambda: client.execute("SELECT 1", identity=identity),  # noqa: B023 - called at once
            lambda: client.execute_one("SELECT 1", identity=identity),  # noqa: B023
            lambda: client.execute_scalar("SELECT 1", identity=identity),  # noqa: B023
            lambda: client.execute_many("SELECT %s", [(1,)], identity=identity),  # noqa: B023
            lambda: client.connection(identity=identity).__enter__(),  # noqa: B023
            lambda: client.stream("SELECT 1", identity=identity).__enter__(),  # noqa: B023
        ]
        for call in calls:
            with pytest.raises(RlsContextError):
                call()
    assert client.stats()["checkouts"] == before


@tenants
def test_a_call_may_change_a_part_of_the_ambient_identity(
    example: Example, client_of: NewClientOf
) -> None:
    """Name by name, and what the client does not know of the ambient one is ignored."""
    client = client_of()
    with user_context("auth0|ada", tenant_id=1, planet="earth"):
        assert client.execute_scalar(owners(example)) == "1/auth0|ada"
        assert client.execute_scalar(owners(example), identity={"tenant_id": 2}) == "2/auth0|ada"
        assert client.execute_scalar(owners(example), user_id="auth0|bob") == "1/auth0|bob"
        with pytest.raises(RlsContextError, match="no planet"):
            client.execute("SELECT 1", identity={"planet": "mars"})


@tenants
def test_a_shops_other_tables_hold_too(example: Example, client_of: NewClientOf) -> None:
    """Orders belong to both, shared products are everybody's to read and nobody's to change."""
    client = client_of()
    order = "INSERT INTO orders (tenant_id, user_id, item) VALUES (%s, %s, 'tea') RETURNING item"
    with user_context("auth0|ada", tenant_id=1):
        assert client.execute_scalar(order, (1, "auth0|ada")) == "tea"
        for foreign in ((2, "auth0|ada"), (1, "auth0|bob")):
            with pytest.raises(PostgresError, match="42501"):
                client.execute(order, foreign)
        products = "SELECT name FROM products ORDER BY id"
        assert [row["name"] for row in client.execute(products)] == ["Voucher", "Novel"]
        changed = "UPDATE products SET name = 'x' WHERE tenant_id IS NULL RETURNING 1 AS one"
        assert client.execute(changed) == []
        assert client.execute_scalar("SELECT count(*) FROM memberships") == 2
        assert client.execute_scalar("SELECT name FROM tenants") == "Ada's Books"
        assert client.execute_scalar("SELECT name FROM users") == "Ada"
    with user_context("auth0|bob", tenant_id=1):
        # Other tests give him orders of his own.
        foreign_orders = "SELECT count(*) FROM orders WHERE user_id <> 'auth0|bob'"
        assert client.execute_scalar(foreign_orders) == 0


# -- blocks --


def test_a_block_is_joined_by_an_equal_identity_alone(
    example: Example, client_of: NewClientOf
) -> None:
    """Another one in a single value is another one, and the refusal shows no value of it."""
    client = client_of()
    for me in example.identities:
        with client.connection(**example.given(me)) as conn:
            with client.connection(**example.given(dict(me))) as inner:
                assert inner.execute("SELECT 1 AS one").fetchone() == {"one": 1}
            for other in example.identities:
                if other == me:
                    continue
                with pytest.raises(RlsContextError, match="is open in this thread") as caught:
                    client.execute("SELECT 1", **example.given(other))
                if example.identity is not None:
                    words = str(caught.value)
                    assert "auth0" not in words
                    assert "8000" not in words
                    assert any(f"another {name}" in words for name in other)
            assert conn.execute(owners(example)).fetchall() == [{"owner": example.key(me)}]


def test_a_block_checks_its_whole_identity(example: Example, client_of: NewClientOf) -> None:
    """Where it has to ask the server whether its context is still there, each value counts."""
    client = client_of(pool_size=1)
    me, other = example.identities[0], example.identities[-1]
    for setting, text in zip(example.settings, example.texts(other), strict=True):
        lost = pytest.raises(RlsContextError)
        with lost, client.connection(**example.given(me)) as conn:
            conn.execute("SELECT set_config(%s, %s, true)", (setting, text))
            conn.execute("SET application_name = another")
            conn.execute("SELECT 1")
    with client.connection(**example.given(me)) as conn:
        conn.execute("SET application_name = another")
        assert conn.execute(owners(example)).fetchall() == [{"owner": example.key(me)}]
    lost = pytest.raises(RlsContextError)
    with lost, client.connection(**example.given(me)) as conn:
        conn.execute("COMMIT AND CHAIN")
        conn.execute("SELECT 1")


# -- what stays behind --


def test_nothing_of_an_identity_stays_behind(example: Example, client_of: NewClientOf) -> None:
    """Neither a call's values nor what SQL has set for the session reach the next borrower."""
    client = client_of(pool_size=1, min_size=1)
    me, other = example.identities[0], example.identities[-1]
    nothing = {f"s{n}": "" for n in range(len(example.settings))}
    spoil = ", ".join(
        f"set_config('{name}', %s, false) AS c{n}" for n, name in enumerate(example.settings)
    )

    def spoil_in_a_call() -> None:
        client.execute(f"SELECT {spoil}", example.texts(other), **example.given(me))

    def spoil_in_a_block() -> None:
        with client.connection(**example.given(me)) as conn:
            conn.execute(f"SELECT {spoil}", example.texts(other))

    for use in (spoil_in_a_call, spoil_in_a_block, lambda: seen(client, example, me)):
        for _ in range(3):
            use()
            assert client.execute_admin(settings_of(example)) == [nothing]
            use()
            with client.admin_connection() as conn:
                assert conn.execute(settings_of(example)).fetchall() == [nothing]
            use()
            assert set(seen(client, example, me)) == {example.key(me)}
            use()
            assert set(seen(client, example, other)) == {example.key(other)}


@tenants
def test_an_absent_value_reads_as_empty(example: Example, client_of: NewClientOf) -> None:
    """Also on the session whose last identity had it, in calls and in blocks."""
    client = client_of(
        pool_size=1,
        min_size=1,
        identity={
            **TENANTS.options["identity"],
            "region": RlsSetting("shop.region", str, required=False),
        },
    )
    region = "SELECT current_setting('shop.region', true) AS region"
    me = example.identities[0]
    for _ in range(7):
        assert client.execute_scalar(region, identity={**me, "region": "eu"}) == "eu"
        assert client.execute_scalar(region, identity=me) == ""
        with client.connection(identity={**me, "region": "eu"}) as conn:
            assert conn.execute(region).fetchone() == {"region": "eu"}
        with client.connection(identity=me) as conn:
            assert conn.execute(region).fetchone() == {"region": ""}


# -- roles --

WHO = "SELECT current_user AS who, session_user AS login"


@supabase
def test_a_local_role_runs_users_transactions_and_no_others(
    example: Example, client_of: NewClientOf
) -> None:
    """Policies TO authenticated apply; the login inherits nothing, and an administrator is it."""
    client = client_of(pool_size=1, min_size=1)
    given = example.given(example.identities[0])
    for _ in range(7):
        assert client.execute(WHO, **given) == [{"who": "authenticated", "login": "authenticator"}]
        assert client.execute_admin(WHO) == [{"who": "authenticator", "login": "authenticator"}]
        with client.connection(**given) as conn:
            assert conn.execute(WHO).fetchone() == {
                "who": "authenticated",
                "login": "authenticator",
            }
        with client.admin_connection() as conn:
            assert conn.execute(WHO).fetchone() == {
                "who": "authenticator",
                "login": "authenticator",
            }
    assert client.execute_scalar("SELECT auth.role()", **given) == "authenticated"
    with pytest.raises(PostgresError, match="42501"):
        client.execute_admin("SELECT * FROM notes")
    profiles = "SELECT name FROM profiles ORDER BY name"
    assert [row["name"] for row in client.execute(profiles, **given)] == ["Ada", "Bob"]
    renamed = "UPDATE profiles SET name = name RETURNING name"
    assert client.execute(renamed, **given) == [{"name": "Ada"}]


@supabase
def test_a_block_that_leaves_its_role_has_lost_its_context(
    example: Example, client_of: NewClientOf
) -> None:
    """Where the server is asked, the role counts as a value does."""
    client = client_of()
    given = example.given(example.identities[0])
    lost = pytest.raises(RlsContextError)
    with lost, client.connection(**given) as conn:
        conn.execute("RESET ROLE; SET application_name = another")
        conn.execute("SELECT 1")


@supabase
def test_no_plan_is_shared_between_roles(example: Example, client_of: NewClientOf) -> None:
    """One session serves users and administrators, and prepares a text once for each."""
    client = client_of(pool_size=1, min_size=1)
    query = "SELECT current_user::text AS who FROM pg_class LIMIT 1"
    given = example.given(example.identities[0])
    for _ in range(8):
        assert client.execute_scalar(query, **given) == "authenticated"
        assert client.execute_admin(query) == [{"who": "authenticator"}]
    named = "SELECT count(*) AS n FROM pg_prepared_statements WHERE statement = %s"
    assert client.execute_admin(named, (query,)) == [{"n": 2}]


@supabase
def test_a_local_role_is_checked_at_construction(example: Example, client_of: NewClientOf) -> None:
    """One that passes policies by, that does not exist, or that the login may not take."""
    with pytest.raises(RlsContextError, match="service_role has BYPASSRLS"):
        client_of(local_role="service_role")
    client_of(local_role="service_role", on_rls_bypass="ignore")
    client_of(local_role="anon")
    for name, state in (("nobody", "22023"), ("postgres", "42501")):
        with pytest.raises(PostgresConfigurationError, match="local_role") as caught:
            client_of(local_role=name)
        assert caught.value.sqlstate == state
    with pytest.raises(RlsContextError, match="member of service_role"):
        client_of(local_role=None)


@supabase
def test_a_local_role_is_checked_for_each_new_login(
    example: Example, client_of: NewClientOf
) -> None:
    """A callable URL may lead to another login one day."""
    superuser = client_of.superuser()
    superuser.execute("CREATE ROLE newcomer LOGIN PASSWORD 'secret'")
    urls = [client_of.url()]
    client = client_of(lambda: urls[-1], pool_size=2, min_size=1)
    given = example.given(example.identities[0])
    try:
        urls.append(client_of.server.url("newcomer", "secret", example.dbname))
        # The session that there is, is in use: a thread of its own needs another.
        refused = pytest.raises(PostgresConfigurationError, match="local_role")
        with client.connection(**given), refused:
            run_in_thread(lambda: client.execute(WHO, **given))
        superuser.execute("GRANT authenticated TO newcomer")
        with client.connection(**given):
            assert run_in_thread(lambda: client.execute(WHO, **given)) == [
                {"who": "authenticated", "login": "newcomer"}
            ]
    finally:
        client.close()
        superuser.execute("DROP ROLE newcomer")


@supabase
def test_a_local_role_that_owns_the_tables_is_refused(
    example: Example, client_of: NewClientOf
) -> None:
    """Policies without FORCE do not bind the owner of their table."""
    superuser = client_of.superuser()
    superuser.execute("CREATE ROLE keeper; GRANT keeper TO authenticator")
    superuser.execute("CREATE TABLE kept (user_id uuid); ALTER TABLE kept OWNER TO keeper")
    superuser.execute("ALTER TABLE kept ENABLE ROW LEVEL SECURITY")
    try:
        with pytest.raises(RlsContextError, match=r"role keeper owns public\.kept"):
            client_of(local_role="keeper")
        client_of()
    finally:
        superuser.execute("DROP TABLE kept; DROP ROLE keeper")


def test_a_dead_server_is_told_as_such(example: Example, client_of: NewClientOf) -> None:
    """The role is taken after the login, and no failure to log in looks like a role's."""
    url = urlsplit(client_of.url())
    with pytest.raises(PostgresConnectionError):
        client_of(urlunsplit(url._replace(netloc=f"{example.login}:wrong@127.0.0.1:{url.port}")))


def test_ids_of_an_identity_reach_policies_as_their_own_types(
    example: Example, client_of: NewClientOf
) -> None:
    """What the policy casts is what the caller gave."""
    client = client_of()
    me = example.identities[0]
    [row] = client.execute(settings_of(example), **example.given(me))
    if "claims" in me:
        uid = client.execute_scalar("SELECT auth.uid()", **example.given(me))
        assert uid == UUID(me["claims"]["sub"])
        assert row["s0"].startswith('{"role": "authenticated"')
    else:
        assert tuple(row.values()) == example.texts(me)

"""No plan that was made for one identity runs for another."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import cycle
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clients.errors import PostgresError
from tests.fault_proxy import FaultProxy
from tests.postgres_faults import superuser

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from clients.postgres_client import PostgresClient
    from tests.postgres_faults import NewClient
    from utils._stack.postgres import PostgresServer

ANN, BOB = UUID(int=0xA, version=4), UUID(int=0xB, version=4)
SETTING = "NULLIF(current_setting('app.current_user_id', true), '')::uuid"
NOTES = """
DROP SCHEMA IF EXISTS plans CASCADE;
CREATE SCHEMA plans;
GRANT USAGE ON SCHEMA plans TO crm_user;
CREATE TABLE plans.notes (owner uuid NOT NULL, note text NOT NULL, changes int DEFAULT 0);
INSERT INTO plans.notes VALUES ('{ann}', 'of ann'), ('{bob}', 'of bob');
{helper};
ALTER TABLE plans.notes ENABLE ROW LEVEL SECURITY;
ALTER TABLE plans.notes FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON plans.notes USING (owner = {owner});
GRANT ALL ON ALL TABLES IN SCHEMA plans TO crm_user;
"""
SQL = f"CREATE FUNCTION plans.uid() RETURNS uuid LANGUAGE sql IMMUTABLE AS $$ SELECT {SETTING} $$"
PLPGSQL = (
    "CREATE FUNCTION plans.uid() RETURNS uuid LANGUAGE plpgsql IMMUTABLE AS "
    f"$$ BEGIN RETURN {SETTING}; END $$"
)
ATOMIC = f"CREATE FUNCTION plans.uid() RETURNS uuid IMMUTABLE RETURN {SETTING}"
STABLE = PLPGSQL.replace("IMMUTABLE", "STABLE")
INNER = "CREATE FUNCTION plans.inner_uid() RETURNS uuid LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN "
NESTED_IN_SQL = (
    f"{INNER} RETURN {SETTING}; END $$; CREATE FUNCTION plans.uid() RETURNS uuid LANGUAGE sql "
    "STABLE AS $$ SELECT plans.inner_uid() $$"
)
NESTED_IN_PLPGSQL = (
    f"{INNER} RETURN {SETTING}; END $$; CREATE FUNCTION plans.uid() RETURNS uuid LANGUAGE plpgsql "
    "STABLE AS $$ BEGIN RETURN plans.inner_uid(); END $$"
)
CALLS_ANOTHER = (
    "CREATE FUNCTION plans.setting() RETURNS text LANGUAGE sql STABLE AS "
    "$$ SELECT current_setting('app.current_user_id', true) $$; "
    "CREATE FUNCTION plans.uid() RETURNS uuid LANGUAGE plpgsql IMMUTABLE AS "
    "$$ BEGIN RETURN plans.setting()::uuid; END $$"
)
VIEW = (
    f"{PLPGSQL}; CREATE VIEW plans.me AS SELECT plans.uid() AS id; "
    "GRANT SELECT ON plans.me TO crm_user"
)
OPERATOR = (
    f"{SQL.replace('plans.uid()', 'plans.uid(text)')}; "
    "CREATE OPERATOR plans.@@@ (FUNCTION = plans.uid, RIGHTARG = text); "
    "CREATE FUNCTION plans.uid() RETURNS uuid LANGUAGE sql IMMUTABLE AS "
    "$$ SELECT OPERATOR(plans.@@@) ''::text $$"
)
SLUG = (
    "CREATE FUNCTION plans.slug(t text) RETURNS text LANGUAGE sql IMMUTABLE AS "
    "$$ SELECT lower(regexp_replace(t, '[^a-z]+', '-', 'g')) $$"
)
TABLE = (
    "CREATE TABLE plans.current AS SELECT 1 AS a; "
    f"CREATE VIEW plans.uids AS SELECT {SETTING} AS id; "
    "GRANT SELECT ON plans.uids TO crm_user; "
    "CREATE FUNCTION plans.uid() RETURNS uuid LANGUAGE plpgsql IMMUTABLE AS "
    "$$ BEGIN RETURN (TABLE plans.uids); END $$"
)
ESCAPED = (
    "CREATE FUNCTION plans.uid() RETURNS uuid LANGUAGE plpgsql IMMUTABLE AS "
    "$$ BEGIN RETURN "
    "NULLIF(U&\"current_s\\0065tting\"('app.current_user_id', true), '')::uuid; END $$"
)
HELPERS = {
    "sql": (SQL, "plans.uid()"),
    "plpgsql": (PLPGSQL, "plans.uid()"),
    "atomic": (ATOMIC, "plans.uid()"),
    "nested in sql": (NESTED_IN_SQL, "plans.uid()"),
    "nested in plpgsql": (NESTED_IN_PLPGSQL, "plans.uid()"),
    "calls another": (CALLS_ANOTHER, "plans.uid()"),
    "in a view": (VIEW, "(SELECT id FROM plans.me)"),
    "behind an operator": (OPERATOR, "plans.uid()"),
    "reads a table": (TABLE, "plans.uid()"),
    "in Unicode escapes": (ESCAPED, "plans.uid()"),
}
READS = "SELECT note FROM plans.notes"
READS_WITH = "SELECT note FROM plans.notes WHERE note LIKE %s"


@contextmanager
def notes(server: PostgresServer, helper: str, owner: str) -> Iterator[Callable[[str], None]]:
    """Make the table with a policy on *owner*; yield what runs SQL as the administrator."""
    with superuser(server) as conn:
        conn.execute(NOTES.format(ann=ANN, bob=BOB, helper=helper, owner=owner))

        def run(text: str) -> None:
            conn.execute(text)

        try:
            yield run
        finally:
            conn.execute("DROP SCHEMA plans CASCADE")


def see_their_own(client: PostgresClient, calls: int = 24) -> None:
    """Ann and Bob, in turns and in runs, read and write their own rows alone."""
    for user, name, number in zip(
        cycle([ANN] * 8 + [BOB, ANN, BOB]),
        cycle(["of ann"] * 8 + ["of bob", "of ann", "of bob"]),
        range(calls),
        strict=False,
    ):
        assert client.execute(READS, user_id=user) == [{"note": name}], number
        assert client.execute(READS_WITH, ("of%",), user) == [{"note": name}], number
        changed = client.execute(
            "UPDATE plans.notes SET changes = %s RETURNING note", (number,), user
        )
        assert changed == [{"note": name}], number


@pytest.mark.parametrize("kind", HELPERS)
def test_an_immutable_helper_gives_nobody_anothers_rows(
    server: PostgresServer, new_client: NewClient, kind: str
) -> None:
    """The helper is there before the client: after dozens of calls as Ann, Bob is Bob."""
    with notes(server, *HELPERS[kind]):
        see_their_own(new_client(pool_size=1, min_size=1))


@pytest.mark.parametrize("kind", HELPERS)
def test_an_immutable_helper_that_comes_later_gives_nobody_anothers_rows(
    server: PostgresServer, new_client: NewClient, kind: str
) -> None:
    """The client and its prepared statements are older than the policy and its function."""
    with notes(server, "SELECT 1", SETTING) as run:
        client = new_client(pool_size=1, min_size=1)
        see_their_own(client)
        assert names_of(client), "nothing was prepared: the test shows nothing"
        helper, owner = HELPERS[kind]
        run(f"{helper}; ALTER POLICY own ON plans.notes USING (owner = {owner})")
        see_their_own(client)
        assert names_of(client) == []


def names_of(client: PostgresClient) -> list[str]:
    """Return the callers' statements that the session has prepared."""
    query = "SELECT statement FROM pg_prepared_statements WHERE statement LIKE '%plans.notes%'"
    return [
        row["statement"] for row in client.execute_admin(query) if "LIKE '%" not in row["statement"]
    ]


def test_a_helper_that_is_replaced_gives_nobody_anothers_rows(
    server: PostgresServer, new_client: NewClient
) -> None:
    """STABLE, then IMMUTABLE, then STABLE again: with each change while plans are kept."""
    with notes(server, STABLE, "plans.uid()") as run:
        client = new_client(pool_size=1, min_size=1)
        for _ in range(2):
            see_their_own(client)
            run("ALTER FUNCTION plans.uid() IMMUTABLE")
            see_their_own(client)
            run("ALTER FUNCTION plans.uid() STABLE")
            run(STABLE.replace("CREATE", "CREATE OR REPLACE"))


def test_a_statement_of_the_callers_that_uses_the_helper_is_the_callers(
    server: PostgresServer, new_client: NewClient
) -> None:
    """In the statement, in a default, and in a function's own statements, not in a policy alone."""
    extra = (
        f"{PLPGSQL}; ALTER TABLE plans.notes ALTER owner SET DEFAULT plans.uid(); "
        "CREATE FUNCTION plans.mine() RETURNS bigint LANGUAGE plpgsql STABLE AS "
        "$$ BEGIN RETURN (SELECT count(*) FROM plans.notes WHERE owner = plans.uid()); END $$"
    )
    with notes(server, extra, SETTING):
        client = new_client(pool_size=1, min_size=1)
        for number in range(24):
            user = ANN if number % 9 else BOB
            assert client.execute_scalar("SELECT plans.uid()", user_id=user) == user
            assert client.execute_scalar("SELECT plans.mine() >= 1", user_id=user) is True
            made = client.execute_one(
                "INSERT INTO plans.notes (note) VALUES (%s) RETURNING owner", ("new",), user
            )
            assert made == {"owner": user}


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    steps=st.lists(
        st.sampled_from(["ann", "bob", "ann", "bob", "immutable", "stable", "setting"]),
        min_size=20,
        max_size=60,
    )
)
def test_in_any_order_of_calls_and_changes_everybody_sees_their_own(
    server: PostgresServer, new_client: NewClient, steps: list[str]
) -> None:
    """Calls of two users on one session, between changes of the policy and of its function."""
    changes = {
        "immutable": "ALTER FUNCTION plans.uid() IMMUTABLE; "
        "ALTER POLICY own ON plans.notes USING (owner = plans.uid())",
        "stable": "ALTER FUNCTION plans.uid() STABLE",
        "setting": f"ALTER POLICY own ON plans.notes USING (owner = {SETTING})",
    }
    with notes(server, STABLE, "plans.uid()") as run:
        client = new_client(pool_size=1, min_size=1)
        for _ in range(6):
            client.execute(READS, user_id=ANN)
        for step in steps:
            if step in changes:
                run(changes[step])
            else:
                user = ANN if step == "ann" else BOB
                assert client.execute(READS, user_id=user) == [{"note": f"of {step}"}]
        client.close()


@pytest.mark.parametrize(
    "harmless",
    [
        "SELECT 1",
        STABLE,
        SLUG,
    ],
)
def test_plans_are_kept_where_no_function_can_carry_an_identity(
    server: PostgresServer, new_client: NewClient, harmless: str
) -> None:
    """STABLE helpers, and IMMUTABLE ones that read nothing, cost no preparation and no trip."""
    with notes(server, harmless, SETTING), FaultProxy(server.port) as proxy:
        client = new_client(
            f"postgresql://crm_user:secret@127.0.0.1:{proxy.port}/crm", pool_size=1, min_size=1
        )
        trips = []
        for _ in range(12):
            proxy.reset_counts()
            client.execute(READS, user_id=ANN)
            trips.append(proxy.round_trips)

        assert names_of(client) == [READS]
        assert trips == [1] * 12


def test_where_plans_are_not_kept_a_call_is_still_one_round_trip(
    server: PostgresServer, new_client: NewClient
) -> None:
    """What has to be checked rides along; only the change itself costs further ones."""
    with notes(server, SQL, "plans.uid()") as run, FaultProxy(server.port) as proxy:
        client = new_client(
            f"postgresql://crm_user:secret@127.0.0.1:{proxy.port}/crm", pool_size=1, min_size=1
        )
        trips: list[Any] = []
        for number in range(24):
            proxy.reset_counts()
            client.execute(READS, user_id=ANN)
            trips.append(proxy.round_trips)
            if number == 12:
                run("ALTER FUNCTION plans.uid() STABLE")

        assert trips == [1] * 24


_OWN_DOMAIN = """
DROP SCHEMA IF EXISTS domains CASCADE;
CREATE SCHEMA domains;
GRANT USAGE ON SCHEMA domains TO crm_user;
CREATE FUNCTION domains.uid() RETURNS uuid LANGUAGE sql STABLE AS $$ SELECT {setting} $$;
CREATE DOMAIN domains.own_id AS uuid CHECK (VALUE = domains.uid());
CREATE TABLE domains.notes (owner domains.own_id);
GRANT SELECT, INSERT ON domains.notes TO crm_user;
"""


@pytest.fixture
def own_domain(server: PostgresServer) -> Iterator[None]:
    """Make a domain whose check reads the identity, and a table of it."""
    with superuser(server) as conn:
        conn.execute(_OWN_DOMAIN.format(setting=SETTING).encode())
        yield
        conn.execute("DROP SCHEMA domains CASCADE")


@pytest.mark.usefixtures("own_domain")
@pytest.mark.parametrize("in_block", [False, True])
def test_a_domain_that_reads_the_identity_reads_each_users(
    new_client: NewClient,
    in_block: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """The server keeps a domain's checks for a session; their STABLE function is run each time."""
    client: PostgresClient = new_client(pool_size=1, min_size=1)
    insert = "INSERT INTO domains.notes VALUES (%s)"

    def store(owner: UUID, user: UUID) -> None:
        if in_block:
            with client.connection(user) as conn:
                conn.execute(insert, (owner,))
        else:
            client.execute(insert, (owner,), user)

    # Often enough for the statement to be prepared.
    for user, other in (ANN, BOB), (BOB, ANN), (ANN, BOB):
        for _ in range(8):
            store(user, user)
        with pytest.raises((PostgresError, psycopg.errors.CheckViolation)) as caught:
            store(other, user)
        assert getattr(caught.value, "sqlstate", None) == "23514"

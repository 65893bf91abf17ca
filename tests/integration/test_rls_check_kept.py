"""The linter on what keeps a user's identity for a session: each case tried by two users."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
import pytest

from clients import PostgresClient, PostgresError
from clients._rls.check import Finding, check_rls
from tests.rls_databases import ROLE_PASSWORD
from tests.rls_tables import BARE, CLEAN, INDEX, MINE, RLS, SETTING, check, policy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.rls_databases import Scratch

pytestmark = pytest.mark.usefixtures("empty_schema")

ANN, BOB = UUID(int=0xA), UUID(int=0xB)
READ = f"NULLIF({SETTING}, '')::uuid"


def function(body: str, *, arguments: str = "", returns: str = "uuid", name: str = "me") -> str:
    """Return a function that is IMMUTABLE, in PL/pgSQL."""
    return (
        f"CREATE FUNCTION app.{name}({arguments}) RETURNS {returns} LANGUAGE plpgsql IMMUTABLE "
        f"AS $$ BEGIN {body}; END $$;"
    )


ME = function(f"RETURN {READ}")
IS_MINE = function(f"RETURN u = {READ}", arguments="u uuid", returns="boolean", name="is_mine")
IN_SQL = (
    "CREATE FUNCTION app.is_mine(u uuid) RETURNS boolean LANGUAGE sql IMMUTABLE "
    "AS 'SELECT u = app.me()';"
)
OWNED = "CREATE DOMAIN app.owned AS uuid CHECK (VALUE = app.me());"
CAST = (
    "CREATE FUNCTION app.passes(u uuid) RETURNS boolean LANGUAGE plpgsql STABLE AS $$ BEGIN "
    "PERFORM u::app.owned; RETURN true; EXCEPTION WHEN check_violation THEN RETURN false; END $$;"
)
CALLS_MINE = policy("app.is_mine(user_id)")
KEYED = (
    "CREATE TABLE app.docs (user_id uuid NOT NULL, body text) "
    "PARTITION BY LIST ((COALESCE(app.me()::text, '') || user_id::text));"
    f"CREATE TABLE app.of_ann PARTITION OF app.docs FOR VALUES IN ('{ANN}{ANN}');"
    f"CREATE TABLE app.of_bob PARTITION OF app.docs FOR VALUES IN ('{BOB}{BOB}');"
    "GRANT SELECT, INSERT ON app.docs TO crm_user;"
) + INDEX + RLS + f"CREATE POLICY mine ON app.docs USING ({MINE});"  # fmt: skip


@dataclass(frozen=True)
class Session:
    """One connection that two users have, one after the other.

    Args:
        client: A client with a pool of one.
    """

    client: PostgresClient

    def adds(self, user: UUID, owner: UUID) -> bool:
        """Return whether a user may add a row of an owner's."""
        try:
            self.client.execute(
                "INSERT INTO app.docs VALUES (%s, 'text')", (owner,), user_id=user, expect=1
            )
        except PostgresError:
            return False
        return True

    def sees(self, user: UUID) -> set[UUID]:
        """Return whose rows a user sees, found by an index where there is one."""
        with self.client.connection(user) as conn:
            conn.execute("SET LOCAL enable_seqscan = off")
            return {row["user_id"] for row in conn.execute("SELECT user_id FROM app.docs")}

    def casts(self, user: UUID, value: UUID) -> bool:
        """Return whether a user may have a value of the domain."""
        try:
            self.client.execute_scalar("SELECT %s::app.owned", (value,), user_id=user)
        except PostgresError:
            return False
        return True


@pytest.fixture
def session(scratch: Scratch) -> Iterator[Callable[[], Session]]:
    """Make clients with one connection each."""
    clients: list[PostgresClient] = []

    def make() -> Session:
        url = scratch.server.url("crm_user", ROLE_PASSWORD, scratch.name)
        clients.append(PostgresClient(url, pool_size=1, min_size=1))
        return Session(clients[-1])

    yield make
    for client in clients:
        client.close()


def kept(scratch: Scratch) -> list[Finding]:
    """Return what the rule finds."""
    return [finding for finding in check(scratch) if finding.rule == "identity-kept"]


def _domain(new: Session) -> bool:
    return new.casts(ANN, ANN) and new.casts(BOB, ANN) and not new.casts(BOB, BOB)


def _refuses_bob(new: Session) -> bool:
    return new.adds(ANN, ANN) and not new.adds(BOB, BOB)


def _shows_ann(new: Session) -> bool:
    return new.adds(ANN, ANN) and new.sees(BOB) == {ANN}


def _shows_ann_by_a_policy(new: Session) -> bool:
    return new.adds(ANN, ANN) and new.sees(ANN) == new.sees(BOB) == {ANN}


KEPT: dict[str, tuple[str, str, str, Callable[[Session], bool]]] = {
    "domain": (
        CLEAN + ME + OWNED, "constraint owned_check of domain app.owned", "risk", _domain,
    ),
    "domain with a function in SQL": (
        CLEAN + ME + IN_SQL + "CREATE DOMAIN app.owned AS uuid CHECK (app.is_mine(VALUE));",
        "constraint owned_check of domain app.owned", "risk", _domain,
    ),
    "domain that a policy casts to": (
        ME + OWNED + CAST + policy("app.passes(user_id)"),
        "constraint owned_check of domain app.owned", "leak", _shows_ann_by_a_policy,
    ),
    "index on an expression": (
        IS_MINE + CALLS_MINE + "CREATE INDEX i ON app.docs ((app.is_mine(user_id)));",
        "index app.i on app.docs", "leak", _shows_ann,
    ),
    "predicate of an index": (
        IS_MINE + CALLS_MINE + "CREATE INDEX i ON app.docs (body) WHERE app.is_mine(user_id);",
        "index app.i on app.docs", "leak", _shows_ann,
    ),
    "unique index": (
        CLEAN + ME + "CREATE UNIQUE INDEX i ON app.docs (app.me(), body);",
        "index app.i on app.docs", "risk", _refuses_bob,
    ),
    "exclusion constraint": (
        CLEAN + ME + "ALTER TABLE app.docs ADD CONSTRAINT i EXCLUDE ((app.me()::text) WITH =);",
        "constraint i on app.docs", "risk", _refuses_bob,
    ),
    "partition key": (ME + KEYED, "partition key of app.docs", "risk", _refuses_bob),
}  # fmt: skip


@pytest.mark.parametrize("kind", KEPT)
def test_what_keeps_the_first_user_of_a_session_is_found(
    scratch: Scratch, session: Callable[[], Session], kind: str
) -> None:
    """Two users on one connection are taken for one, a finding tells, and its SQL ends both."""
    statements, name, severity, is_wrong = KEPT[kind]
    scratch.run(statements)
    old = session()

    assert is_wrong(old)
    (finding,) = kept(scratch)
    assert (finding.object, finding.severity) == (name, severity)

    scratch.run(finding.fix)
    if not finding.fix.startswith("--"):
        assert kept(scratch) == []
        scratch.run("TRUNCATE app.docs")
        assert not is_wrong(old), "the session that met it first goes on as it was"
        assert not is_wrong(session())


HARMLESS = {
    "CHECK of a table": BARE + ME + "ALTER TABLE app.docs ADD CHECK (user_id = app.me());"
    "CREATE POLICY mine ON app.docs USING (true);",
    "generated column": CLEAN + ME
    + "ALTER TABLE app.docs ADD me uuid GENERATED ALWAYS AS (app.me()) STORED,"
    " ADD CHECK (me = user_id);",
    "default": CLEAN + ME + "CREATE DOMAIN app.owner AS uuid DEFAULT app.me();"
    "ALTER TABLE app.docs ADD me app.owner, ADD CHECK (me = user_id);",
    "trigger": CLEAN + ME + "CREATE FUNCTION app.no() RETURNS trigger LANGUAGE plpgsql "
    "AS $$ BEGIN RETURN NULL; END $$; CREATE TRIGGER no BEFORE INSERT ON app.docs "
    "FOR EACH ROW WHEN (NEW.user_id <> app.me()) EXECUTE FUNCTION app.no();",
    "rule": CLEAN + ME + "CREATE RULE no AS ON INSERT TO app.docs WHERE NEW.user_id <> app.me() "
    "DO INSTEAD NOTHING;",
    "statistics": CLEAN + ME
    + "CREATE STATISTICS app.s ON (app.me()::text), (user_id = app.me()) FROM app.docs;",
    "index on columns": CLEAN + ME + "CREATE INDEX ON app.docs (lower(body)) WHERE body <> '';",
    "index with a function of its arguments": CLEAN
    + function("RETURN lower(t)", arguments="t text", returns="text", name="slug")
    + "CREATE INDEX ON app.docs (app.slug(body));",
    "index with a function that reads a setting of the server": CLEAN
    + function("RETURN t || current_setting('server_version')", arguments="t text",
               returns="text", name="slug") + "CREATE INDEX ON app.docs (app.slug(body));",
    "domain with a STABLE function": CLEAN + ME.replace("IMMUTABLE", "STABLE") + OWNED
    + "ALTER TABLE app.docs ADD me app.owned;",
    "domain that calls a function with its value": CLEAN + IS_MINE
    + "CREATE DOMAIN app.owned AS uuid CHECK (app.is_mine(VALUE));"
    "ALTER TABLE app.docs ADD me app.owned;",
    "domain that reads the setting": CLEAN
    + f"CREATE DOMAIN app.owned AS uuid CHECK (VALUE = {READ});"
    "ALTER TABLE app.docs ADD me app.owned;",
}  # fmt: skip


@pytest.mark.parametrize("kind", HARMLESS)
def test_what_is_computed_for_each_statement_is_not_found(
    scratch: Scratch, session: Callable[[], Session], kind: str
) -> None:
    """Two users on one connection add and see their own rows, and no finding says otherwise."""
    scratch.run(HARMLESS[kind])
    one = session()
    for user, other in ((ANN, BOB), (BOB, ANN), (ANN, BOB)):
        assert one.adds(user, user)
        if not HARMLESS[kind].endswith("USING (true);"):
            assert not one.adds(user, other) or one.sees(user) == {user}
            assert one.sees(user) == {user}
    if "DOMAIN app.owned" in HARMLESS[kind]:
        assert one.casts(ANN, ANN)
        assert one.casts(BOB, BOB)
        assert not one.casts(BOB, ANN)

    assert kept(scratch) == []


_U = '"current_\\0073etting"'
READERS = {
    "SQL": f"CREATE FUNCTION app.me() RETURNS uuid LANGUAGE sql IMMUTABLE AS $$ SELECT {READ} $$;",
    "a body that is parsed": f"CREATE FUNCTION app.me() RETURNS uuid IMMUTABLE RETURN {READ};",
    "through another function": ME.replace(".me", ".them") + function("RETURN app.them()"),
    "through a parsed body": ME.replace(".me", ".them")
    + "CREATE FUNCTION app.me() RETURNS uuid IMMUTABLE RETURN app.them();",
    "through a default": function(
        "RETURN u", arguments=f"u uuid DEFAULT {READ}", name="them"
    ) + function("RETURN app.them()"),
    "through an operator": ME.replace(".me", ".them")
    + function("RETURN app.them()", arguments="u uuid", name="those")
    + "CREATE OPERATOR app.@@@ (FUNCTION = app.those, RIGHTARG = uuid);"
    + function("RETURN OPERATOR(app.@@@) NULL::uuid"),
    "through a domain": ME.replace(".me", ".them")
    + "CREATE DOMAIN app.theirs AS uuid CHECK (VALUE IS DISTINCT FROM app.them());"
    + function("RETURN '00000000-0000-0000-0000-00000000000c'::app.theirs"),
    "with escapes in a name": function(f"RETURN NULLIF(U&{_U}('app.current_user_id', true), '')"),
    "with an escape of its own": function(
        "RETURN NULLIF(U&" + _U.replace("\\", "!")
        + " UESCAPE '!'('app.current_user_id', true), '')"
    ),
    "with escapes in a string": function(
        "RETURN NULLIF(current_setting(E'app.current\\x5fuser_id', true), '')"
    ),
    "a quoted name": function(
        "RETURN NULLIF(pg_catalog.\"current_setting\" ( 'APP.Current_User_Id' , true), '')"
    ),
    "a name put together": function(
        "RETURN NULLIF(current_setting('app.' || 'current_user_id', true), '')"
    ),
    "a comment between": function(
        "RETURN NULLIF(current_setting/**/(/*x*/'app.current_user_id', true), '')"
    ),
    "dynamic SQL": function(
        "EXECUTE 'SELECT current_' || 'setting(''app.current_user_id'', true)' INTO u; RETURN u"
    ).replace("BEGIN", "DECLARE u uuid; BEGIN"),
    "rows that a policy chooses": function("RETURN (SELECT user_id FROM app.docs LIMIT 1)"),
    "a table command": function("RETURN (TABLE app.own)"),
    "the server's own by another name": "CREATE FUNCTION app.setting(text, boolean) RETURNS text "
    "LANGUAGE internal IMMUTABLE STRICT AS 'show_config_by_name_missing_ok';"
    + function("RETURN NULLIF(app.setting('app.current_user_id', true), '')"),
}  # fmt: skip


@pytest.mark.parametrize("way", READERS)
def test_every_way_to_read_the_identity_counts(scratch: Scratch, way: str) -> None:
    """However a function comes to read who the user is, an index that calls it is found."""
    tables = (
        "CREATE VIEW app.own AS SELECT user_id FROM app.docs LIMIT 1;"
        "CREATE TABLE app.words (word text); GRANT SELECT ON app.words TO crm_user;"
    )
    with psycopg.connect(scratch.server.url(dbname=scratch.name)) as conn:
        conn.execute(f"SET app.current_user_id = '{ANN}'")
        conn.execute((CLEAN + tables + READERS[way]).encode())
        conn.execute("CREATE INDEX i ON app.words (app.me())")

    found = [(f.object, f.severity) for f in kept(scratch)]
    assert [f for f in found if "domain" not in f[0]] == [("index app.i on app.words", "risk")]


NUMBER = (
    "CREATE FUNCTION app.as_int(u uuid) RETURNS int LANGUAGE sql IMMUTABLE "
    "AS 'SELECT app.is_mine(u)::int'; CREATE CAST (uuid AS int) WITH FUNCTION app.as_int(uuid);"
)
UNNAMED = {
    "operator": "CREATE OPERATOR app.@@@ (FUNCTION = app.is_mine, RIGHTARG = uuid);"
    "CREATE INDEX i ON app.docs ((OPERATOR(app.@@@) user_id));",
    "cast": NUMBER + "CREATE INDEX i ON app.docs ((user_id::int));",
    "cast in a function": NUMBER
    + function("RETURN u::int4", arguments="u uuid", returns="int", name="number")
    + "CREATE INDEX i ON app.docs (app.number(user_id));",
}


@pytest.mark.parametrize("way", UNNAMED)
def test_an_expression_that_calls_without_a_name_is_found(scratch: Scratch, way: str) -> None:
    """Operators and casts call functions as well."""
    scratch.run(CLEAN + IS_MINE + UNNAMED[way])

    assert [f.object for f in kept(scratch)] == ["index app.i on app.docs"]
    scratch.run("DROP CAST IF EXISTS (uuid AS int)")


def test_an_index_of_a_partitioned_table_is_told_once(scratch: Scratch) -> None:
    """The indexes of the partitions go with the parent's; one of a partition alone is told."""
    scratch.run(
        IS_MINE + "CREATE TABLE app.docs (user_id uuid NOT NULL, n int) PARTITION BY LIST (n);"
        "CREATE TABLE app.one PARTITION OF app.docs FOR VALUES IN (1);"
        "GRANT SELECT ON app.docs TO crm_user;" + INDEX + RLS
        + "CREATE POLICY mine ON app.docs USING (app.is_mine(user_id));"
        "CREATE INDEX i ON app.docs (n) WHERE app.is_mine(user_id);"
        "CREATE INDEX j ON app.one (n) WHERE app.is_mine(user_id);"
    )  # fmt: skip

    assert [(f.object, f.severity) for f in kept(scratch)] == [
        ("index app.i on app.docs", "leak"),
        ("index app.j on app.one", "leak"),
    ]


def test_the_label_alone_does_not_mend_an_index(scratch: Scratch) -> None:
    """The rows in it stay as they were written, whatever the function is called afterwards."""
    scratch.run(
        IS_MINE + CALLS_MINE + "CREATE INDEX i ON app.docs (body) WHERE app.is_mine(user_id);"
        "ALTER FUNCTION app.is_mine(uuid) STABLE"
    )

    assert [f.severity for f in kept(scratch)] == ["leak"]


def test_an_index_that_reads_another_setting_of_the_application_is_found(scratch: Scratch) -> None:
    """Any setting with a dot may differ from user to user, whichever the identity is."""
    other = ME.replace("app.current_user_id", "app.tenant")
    scratch.run(CLEAN + other + "CREATE INDEX i ON app.docs (app.me())")
    with scratch.connect() as connection:
        found: list[Any] = check_rls(connection)

    assert "index app.i on app.docs" in {finding.object for finding in found}


@pytest.mark.parametrize("kind", ["unique index", "exclusion constraint"])
def test_an_index_that_is_to_be_dropped_is_not_to_be_made_again(
    scratch: Scratch, kind: str
) -> None:
    """A unique one has one finding: the SQL of two would undo each other."""
    scratch.run(KEPT[kind][0])

    assert len(kept(scratch)) == 1
    assert "unscoped-unique" not in {finding.rule for finding in check(scratch)}

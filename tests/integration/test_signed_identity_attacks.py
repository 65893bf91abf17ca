"""What SQL of the application's role can do for another user's rows: with a signed identity, none.

The same statements against the plain identity show which succeed there: these tests can fail.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
import pytest

from clients._postgres.identity_key import IdentityKey, Signatures
from clients.errors import ClientError
from clients.postgres_client import PostgresClient
from tests.signed_databases import MALLORY, SECRET, SETTING, VICTIM, SignedDatabase, make_signed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from utils._stack.postgres import PostgresServer


class Attack(NamedTuple):
    """What Mallory's SQL does in a transaction of hers.

    Args:
        statements: They run in order; ``{forged}`` is what she wants to be taken for.
        works: Whether it succeeds where the identity is plain.
    """

    statements: tuple[str, ...]
    works: bool = True


_SET = f"SELECT set_config('{SETTING}', '{{forged}}', true)"
_READ = "SELECT body FROM {table}"
_OWN = "SELECT body FROM signed_notes"


def _taken(*before: str, works: bool = True, then: str = _READ) -> Attack:
    return Attack((*before, then), works)


ATTACKS = {
    "set_config, local": _taken(_SET),
    "set_config, session": _taken(f"SELECT set_config('{SETTING}', '{{forged}}', false)"),
    "set_config by its full name": _taken(
        f"SELECT pg_catalog.set_config('{SETTING}', '{{forged}}', true)"
    ),
    "SET": _taken(f"SET {SETTING} = '{{forged}}'"),
    "SET LOCAL": _taken(f"SET LOCAL {SETTING} = '{{forged}}'"),
    "SET SESSION": _taken(f"SET SESSION {SETTING} TO '{{forged}}'"),
    "SET in capitals": _taken(f"SET {SETTING.upper()} = '{{forged}}'"),
    "SET, quoted": _taken('SET "app"."current_user_id" = \'{forged}\''),
    "UPDATE pg_settings": _taken(
        _SET, f"UPDATE pg_settings SET setting = '{{forged}}' WHERE name = '{SETTING}'"
    ),
    "in a DO block": _taken(
        f"DO $$BEGIN PERFORM set_config('{SETTING}', '{{forged}}', true); END$$"
    ),
    "EXECUTE in a DO block": _taken(
        f"DO $$BEGIN EXECUTE 'SET LOCAL {SETTING} = ''{{forged}}'''; END$$"
    ),
    "two statements in one text": _taken(works=True, then=f"{_SET}; {_READ}"),
    "within the same statement": _taken(
        then=f"WITH s AS MATERIALIZED ({_SET}) SELECT body FROM s, {{table}}"
    ),
    "a function of her own": _taken(
        f"CREATE FUNCTION pg_temp.be() RETURNS text LANGUAGE sql AS $$SELECT"
        f" set_config('{SETTING}', '{{forged}}', true)$$",
        "SELECT pg_temp.be()",
    ),
    "a function with a setting": _taken(
        "CREATE FUNCTION pg_temp.all_of() RETURNS SETOF text LANGUAGE sql"
        f" SET {SETTING} = '{{forged}}' AS $$SELECT body FROM {{table}}$$",
        then="SELECT * FROM pg_temp.all_of()",
        works=False,
    ),
    "a prepared statement": _taken(
        "PREPARE p AS SELECT body FROM {table}", "EXECUTE p", _SET, then="EXECUTE p"
    ),
    "a generic plan": _taken(
        "SET plan_cache_mode = force_generic_plan",
        "PREPARE g AS SELECT body FROM {table} WHERE body <> $1",
        "EXECUTE g('')",
        _SET,
        then="EXECUTE g('')",
    ),
    "a cursor": _taken(_SET, "DECLARE c CURSOR FOR SELECT body FROM {table}", then="FETCH ALL c"),
    "a cursor WITH HOLD": _taken(
        _SET, "DECLARE h CURSOR WITH HOLD FOR SELECT body FROM {table}", then="FETCH ALL h"
    ),
    "an aggregate": _taken(_SET, then="SELECT string_agg(body, ',') FROM {table}"),
    "to JSON": _taken(_SET, then="SELECT row_to_json(t) FROM {table} AS t"),
    "a temporary table": _taken(
        _SET, "CREATE TEMP TABLE t AS SELECT * FROM {table}", then="SELECT body FROM t"
    ),
    "UPDATE": _taken(_SET, then="UPDATE {table} SET body = 'of Mallory now'"),
    "UPDATE RETURNING": _taken(_SET, then="UPDATE {table} SET body = body RETURNING body"),
    "DELETE": _taken(_SET, then="DELETE FROM {table}"),
    "INSERT for the victim": _taken(
        _SET, then=f"INSERT INTO {{table}} VALUES ('{VICTIM}', 'of Mallory')"
    ),
    "MERGE": _taken(
        _SET,
        then="MERGE INTO {table} AS t USING (SELECT 1) AS s"
        f" ON t.user_id = '{VICTIM}'"
        " WHEN MATCHED THEN UPDATE SET body = 'of Mallory now'",
    ),
    "behind a savepoint": _taken("SAVEPOINT s", _SET, "RELEASE s"),
    "in a worker process": _taken(
        "SET debug_parallel_query = on", "SET parallel_setup_cost = 0", _SET
    ),
    "EXPLAIN ANALYZE": _taken(
        _SET, then="EXPLAIN (ANALYZE, VERBOSE, COSTS off) SELECT body FROM {table}", works=False
    ),
    "RESET": _taken(f"RESET {SETTING}", works=False),
    "empty": _taken(f"SET {SETTING} = ''", works=False),
    "row_security = off": _taken("SET row_security = off", works=False),
    "SET ROLE": _taken("SET ROLE crm_admin", works=False),
    "SET SESSION AUTHORIZATION": _taken("SET SESSION AUTHORIZATION postgres", works=False),
    "a leaky function in WHERE": _taken(
        "CREATE FUNCTION pg_temp.leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS"
        " $$BEGIN RAISE WARNING '%', $1; RETURN true; END$$",
        then="SELECT body FROM {table} WHERE pg_temp.leak(body)",
        works=False,
    ),
    "a policy of her own": _taken("CREATE POLICY all_of ON {table} USING (true)", works=False),
    "without the policy": _taken("DROP POLICY own ON {table}", works=False),
    "without row-level security": _taken(
        "ALTER TABLE {table} DISABLE ROW LEVEL SECURITY", works=False
    ),
    # What follows is made for the signed identity.
    "the function replaced": _taken(
        "CREATE OR REPLACE FUNCTION failfast.identity_uuid(setting text) RETURNS uuid"
        f" LANGUAGE sql AS $$SELECT '{VICTIM}'::uuid$$",
        works=False,
    ),
    "the function altered": _taken(
        "ALTER FUNCTION failfast.identity_uuid(text) SECURITY INVOKER", works=False
    ),
    "the function dropped": _taken(
        "DROP FUNCTION failfast.identity_uuid(text) CASCADE", works=False
    ),
    "a function of its name first in the path": _taken(
        "CREATE FUNCTION pg_temp.identity_uuid(text) RETURNS uuid LANGUAGE sql AS"
        f" $$SELECT '{VICTIM}'::uuid$$",
        "SET search_path = pg_temp, failfast, public",
        works=False,
    ),
    "sha256 of her own first in the path": _taken(
        "CREATE FUNCTION pg_temp.sha256(bytea) RETURNS bytea LANGUAGE sql"
        " AS $$SELECT '\\x00'::bytea$$",
        "CREATE FUNCTION pg_temp.encode(bytea, text) RETURNS text LANGUAGE sql AS $$SELECT ''$$",
        "SET search_path = pg_temp, pg_catalog, public",
        _SET,
    ),
    "pg_backend_pid of her own first in the path": _taken(
        "CREATE FUNCTION pg_temp.pg_backend_pid() RETURNS int LANGUAGE sql AS $$SELECT {pid}$$",
        "SET search_path = pg_temp, pg_catalog, public",
        _SET,
    ),
    "an operator of her own": _taken(
        "CREATE FUNCTION pg_temp.yes(bytea, bytea) RETURNS boolean LANGUAGE sql AS $$SELECT true$$",
        "CREATE OPERATOR pg_temp.= (LEFTARG = bytea, RIGHTARG = bytea, FUNCTION = pg_temp.yes)",
        "SET search_path = pg_temp, pg_catalog, public",
        _SET,
    ),
    "a cast of her own": _taken(
        "CREATE FUNCTION pg_temp.as_victim(text) RETURNS uuid LANGUAGE sql AS"
        f" $$SELECT '{VICTIM}'::uuid$$",
        "CREATE CAST (text AS uuid) WITH FUNCTION pg_temp.as_victim(text) AS IMPLICIT",
        works=False,
    ),
    "a table of keys of her own": _taken(
        "CREATE TEMP TABLE identity_keys (number int, inner_block bytea, outer_block bytea)",
        "SET search_path = pg_temp, failfast, public",
        _SET,
    ),
    "a key of her own": _taken(
        "SELECT failfast.set_identity_key(9, decode(repeat('00', 32), 'hex'))", works=False
    ),
    "another client_encoding": _taken("SET client_encoding = 'LATIN1'", _SET),
    "another bytea_output": _taken("SET bytea_output = 'escape'", _SET),
    "another time zone": _taken(
        "SET timezone = 'Pacific/Kiritimati'", "SET datestyle = 'SQL'", _SET
    ),
    "her own signature's expiry moved": _taken(
        f"SELECT set_config('{SETTING}', 'ffff' || substr(current_setting('{SETTING}'), 5), true)",
        works=False,
    ),
    "her own signature before the victim": _taken(
        f"SELECT set_config('{SETTING}', left(current_setting('{SETTING}'), 80) || '{VICTIM}',"
        " true)",
        works=False,
    ),
    "her own signature, longer": _taken(
        f"SELECT set_config('{SETTING}', current_setting('{SETTING}') || '{VICTIM}', true)",
        works=False,
    ),
    "a signature of zeros": _taken(
        f"SELECT set_config('{SETTING}', repeat('f', 16) || repeat('0', 64) || '{VICTIM}', true)",
        works=False,
    ),
    "no signature": _taken(
        f"SELECT set_config('{SETTING}', repeat('f', 16) || '{VICTIM}', true)", works=False
    ),
    "no hexadecimal signature": _taken(
        f"SELECT set_config('{SETTING}', repeat('f', 16) || repeat('\\x', 32) || '{VICTIM}', true)",
        works=False,
    ),
}  # fmt: skip

#: Where a key or a signature of somebody else could stand.
PLACES = {
    "the table of keys": "SELECT * FROM failfast.identity_keys",
    "its statistics": "SELECT * FROM pg_stats WHERE tablename = 'identity_keys'",
    "the statistics' table": "SELECT * FROM pg_statistic",
    "sources": "SELECT prosrc, pg_get_functiondef(oid) FROM pg_proc WHERE prokind = 'f'"
    " AND pronamespace = 'failfast'::regnamespace",
    "defaults": "SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef",
    "other sessions": "SELECT * FROM pg_stat_activity",
    "her session": "SELECT query FROM pg_stat_activity WHERE pid = pg_backend_pid()",
    "settings": f"SELECT * FROM pg_settings WHERE name <> '{SETTING}'",
    "prepared statements": "SELECT * FROM pg_prepared_statements",
    "cursors": "SELECT * FROM pg_cursors",
    "settings of roles": "SELECT * FROM pg_db_role_setting",
    "the log": "SELECT pg_read_file(pg_current_logfile())",
    "the server's files": "SELECT pg_ls_dir('base')",
    "a program": "COPY (SELECT 1) TO PROGRAM 'cat'",
    "row locks": "SELECT * FROM failfast.identity_keys FOR UPDATE",
    "memory": "SELECT * FROM pg_backend_memory_contexts",
    "large objects": "SELECT * FROM pg_largeobject",
}


class World(NamedTuple):
    """Both tables, and who uses them.

    Args:
        database: The tables.
        plain: The application, with a plain identity.
        signed: The application, with a signed one.
        victims: Another session of it, for the victim.
        told: What the server has told the first two beside rows.
    """

    database: SignedDatabase
    plain: PostgresClient
    signed: PostgresClient
    victims: PostgresClient
    told: list[str]


@pytest.fixture(scope="module")
def _world(fault_server: PostgresServer) -> Iterator[World]:
    database, told = make_signed(fault_server), list[str]()
    url = fault_server.url("crm_user", "secret")

    def configure(conn: psycopg.Connection[Any]) -> None:
        conn.add_notice_handler(lambda notice: told.append(f"{notice.message_primary}"))

    with ExitStack() as opened:
        plain, signed, victims = (
            opened.enter_context(
                PostgresClient(url, 1, min_size=1, configure=configure, identity_key=key)
            )
            for key in (None, database.key, database.key)
        )
        yield World(database, plain, signed, victims, told)


@pytest.fixture
def world(_world: World) -> Iterator[World]:
    """Everything as it was before the last attack."""
    yield _world
    _world.told.clear()
    for table in ("plain_notes", "signed_notes"):
        _world.database.restore(table)


def injected(db: PostgresClient, statements: list[str]) -> list[str]:
    """Run *statements* in one transaction of Mallory's; return all that they showed."""
    shown: list[str] = []
    try:
        with db.connection(MALLORY) as conn:
            for statement in statements:
                cursor = conn.execute(statement)
                while True:
                    if cursor.description is not None:
                        shown += [str(list(row.values())) for row in cursor.fetchall()]
                    if not cursor.nextset():
                        break
    except (psycopg.Error, ClientError) as error:
        shown.append(str(error))
    return shown


def succeeds(database: SignedDatabase, table: str, shown: list[str]) -> bool:
    """Return whether something of the victim's was shown, changed or made."""
    others = [row for row in database.rows(table) if row[0] != str(MALLORY)]
    return any(SECRET in text for text in shown) or others != [(str(VICTIM), SECRET)]


@pytest.mark.parametrize("name", ATTACKS)
def test_the_plain_identity_can_be_forged(world: World, name: str) -> None:
    """An attack on the plain identity succeeds where it is said to, and nowhere else."""
    attack = ATTACKS[name]
    statements = [
        one.format(table="plain_notes", forged=VICTIM, pid=1) for one in attack.statements
    ]
    shown = injected(world.plain, statements) + world.told
    assert succeeds(world.database, "plain_notes", shown) == attack.works, shown


@pytest.mark.parametrize("name", ATTACKS)
def test_the_signed_identity_cannot_be_forged(world: World, name: str) -> None:
    """No attack succeeds with the victim's id, nor with a value that another session has signed."""
    query = f"SELECT current_setting('{SETTING}') AS signed, pg_backend_pid() AS pid"
    [stolen] = world.victims.execute(query, (), VICTIM)
    assert world.victims.execute(_OWN, (), VICTIM) == [{"body": SECRET}]
    for forged in (VICTIM, stolen["signed"]):
        statements = [
            one.format(table="signed_notes", forged=forged, pid=stolen["pid"])
            for one in ATTACKS[name].statements
        ]
        shown = injected(world.signed, statements) + world.told
        assert not succeeds(world.database, "signed_notes", shown), shown
    # Nor is anything broken for the next borrower.
    assert world.signed.execute(_OWN, (), VICTIM) == [{"body": SECRET}]


@pytest.mark.parametrize("name", PLACES)
def test_no_key_and_no_signature_can_be_read(world: World, name: str) -> None:
    """Neither the key nor what was signed for others stands where the role can read it."""
    world.victims.execute(_OWN, (), VICTIM)
    # Of this session's earlier borrower, too.
    world.signed.execute(_OWN, (), VICTIM)
    text = " ".join(injected(world.signed, [PLACES[name]]) + world.told)
    assert not re.search(r"[0-9a-f]{80}", text)
    key = world.database.key.ljust(64, b"\0")
    blocks = [bytes(byte ^ pad for byte in key) for pad in (0, 54, 92)]
    assert not any(block[:8].hex() in text or str(block[:8]) in text for block in blocks)


def test_a_value_that_has_expired_is_refused(world: World) -> None:
    """What an earlier borrower of this session was signed for is of no use once it has expired."""
    signatures = Signatures(IdentityKey(world.database.key), 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clients._postgres.identity_key.time.time", lambda: 1_000_000_000.0)
        [old] = signatures.of([SETTING.encode()], [str(VICTIM).encode()])
    [new] = signatures.of([SETTING.encode()], [str(VICTIM).encode()])
    forge = "SELECT set_config('{}', '{}', true)"
    statements = [forge.format(SETTING, old.decode()), _OWN]
    shown = injected(world.signed, statements)
    assert "expired" in shown[-1]
    # What is signed for any session opens it, as long as it is new.
    statements = [forge.format(SETTING, new.decode()), _OWN]
    assert injected(world.signed, statements)[-1] == str([SECRET])


def test_a_value_for_another_setting_is_refused(world: World) -> None:
    """A signature is for one setting: the value of another one cannot take its place."""
    with world.signed.connection(MALLORY) as conn:
        # The server tells settings apart without case; a signature is for one spelling.
        for setting in ("app.other", SETTING.upper(), SETTING[:-1]):
            with pytest.raises(psycopg.Error) as caught, conn.transaction():
                conn.execute(
                    "SELECT set_config(%s, current_setting(%s), true), failfast.identity_text(%s)",
                    (setting, SETTING, setting),
                )
            assert caught.value.sqlstate == "28000"


def test_refusals_tell_nothing_of_how_near_a_signature_is(world: World) -> None:
    """Whatever part of a signature is right, the refusal is the same."""
    refusals = set()
    for place in (17, 18, 48, 79, 80):
        with pytest.raises(psycopg.Error) as caught, world.signed.connection(MALLORY) as conn:
            conn.execute(
                "SELECT set_config(%(name)s, overlay(current_setting(%(name)s) PLACING"
                " translate(substr(current_setting(%(name)s), %(place)s, 1), '0123456789abcdef',"
                " '123456789abcdef0') FROM %(place)s), true), failfast.identity_text(%(name)s)",
                {"name": SETTING, "place": place},
            )
        refusals.add((caught.value.sqlstate, caught.value.diag.message_primary))
    assert len(refusals) == 1
    assert {state for state, _ in refusals} == {"28000"}

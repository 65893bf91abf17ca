"""An identity that is signed: every way to a row, rotation of the key, what goes wrong."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from clients import PostgresOptions, VaultClient, build_clients
from clients._postgres import identity_key
from clients.errors import PostgresConfigurationError, PostgresError, RlsContextError
from clients.identity import RlsSetting, user_context
from clients.postgres_client import PostgresClient
from clients.sqlalchemy_adapter import create_engine
from tests.postgres_faults import superuser
from tests.secret_walker import leaks_in
from tests.signed_databases import MALLORY, SECRET, SETTING, VICTIM, SignedDatabase, make_signed
from utils._stack.seed import direct_client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.pgbouncer_server import PgBouncerServer
    from utils._stack.endpoints import StackEndpoints
    from utils._stack.postgres import PostgresServer

BODIES = "SELECT body FROM signed_notes"
ADD = "INSERT INTO signed_notes VALUES (%s, %s)"


@pytest.fixture
def database(fault_server: PostgresServer) -> SignedDatabase:
    """Tables as new, with a key of their own."""
    return make_signed(fault_server)


@pytest.fixture
def db(database: SignedDatabase) -> Iterator[PostgresClient]:
    """A client with one session: each call is the last one's next borrower."""
    with PostgresClient(_url(database), 1, min_size=1, identity_key=database.key) as made:
        yield made


def _url(database: SignedDatabase) -> str:
    return database.server.url("crm_user", "secret")


def _set_key(database: SignedDatabase, number: int, key: bytes) -> None:
    with superuser(database.server) as conn:
        conn.execute("SELECT failfast.set_identity_key(%s, %s)", (number, key))


def _drop_former(database: SignedDatabase) -> None:
    with superuser(database.server) as conn:
        conn.execute("SELECT failfast.drop_former_identity_key()")


def test_every_call_sees_the_rows_of_its_user(db: PostgresClient) -> None:
    """All methods send a signed identity, prepared or not."""
    for _ in range(12):
        for user, body in ((VICTIM, SECRET), (MALLORY, "of Mallory")):
            assert db.execute(BODIES, (), user) == [{"body": body}]
            assert db.execute_scalar(BODIES, (), user) == body
    with db.stream(BODIES, user_id=VICTIM) as rows:
        assert list(rows) == [{"body": SECRET}]
    assert db.execute_many(ADD, [(VICTIM, "more")] * 3, VICTIM) == 3
    assert db.bulk_insert("signed_notes", ["user_id", "body"], [(VICTIM, "bulk")], VICTIM) == 1
    assert len(db.execute(BODIES, (), VICTIM)) == 5
    assert db.run_transaction(lambda conn: len(conn.execute(BODIES).fetchall()), VICTIM) == 5
    with pytest.raises(PostgresError, match="row-level security"):
        db.execute(ADD, (VICTIM, "of Mallory"), MALLORY)


def test_a_block_keeps_its_context(db: PostgresClient) -> None:
    """The check of the context knows what was signed, and sees when it is gone."""
    with user_context(VICTIM), db.connection() as conn:
        conn.execute("SET application_name = 'mine'")
        assert conn.execute(BODIES).fetchall() == [{"body": SECRET}]
        with db.connection() as joined:
            assert joined.execute(BODIES).fetchall() == [{"body": SECRET}]
    for lost in ("COMMIT; BEGIN", f"SET {SETTING} = '{VICTIM}'; SET application_name = 'other'"):
        with pytest.raises(RlsContextError):
            _read_after(db, lost)


def _read_after(db: PostgresClient, statement: str) -> None:
    with db.connection(VICTIM) as conn:
        conn.execute(statement)
        conn.execute(BODIES)


def test_sqlalchemy_sends_a_signed_identity(db: PostgresClient) -> None:
    """A session that commits and goes on is signed for again."""
    engine = create_engine(db)
    with user_context(VICTIM), Session(engine) as session:
        for _ in range(3):
            assert session.scalars(text(BODIES)).all() == [SECRET]
            session.commit()
    engine.dispose()


def test_several_values_of_all_kinds(database: SignedDatabase) -> None:
    """Each function returns its kind; a value that is absent reads NULL."""
    identity = {
        "user_id": RlsSetting(SETTING),
        "tenant": RlsSetting("app.tenant", int),
        "name": RlsSetting("app.name", str, required=False),
    }
    query = (
        f"SELECT failfast.identity_uuid('{SETTING}') AS id,"
        " failfast.identity_bigint('app.tenant') AS big,"
        " failfast.identity_integer('app.tenant') AS small,"
        " failfast.identity_text('app.name') AS name, failfast.identity_text('app.none') AS no"
    )
    with PostgresClient(
        _url(database), 1, min_size=1, identity=identity, identity_key=database.key
    ) as db:
        for name in (None, "Zoë 'q' \\ :1", "ß" * 4000):
            given: dict[str, Any] = {"user_id": VICTIM, "tenant": 2**31 - 1, "name": name}
            [row] = db.execute(query, (), identity=given)
            assert list(row.values()) == [VICTIM, 2**31 - 1, 2**31 - 1, name, None]


def test_an_administrator_is_not_signed_for(database: SignedDatabase) -> None:
    """admin_connection() has no identity, and so nothing that could be signed."""
    admin = database.server.url("crm_admin", "secret")
    with superuser(database.server) as conn:
        conn.execute("GRANT SELECT ON signed_notes TO crm_admin")
    with PostgresClient(
        _url(database), 1, min_size=1, admin_url=admin, identity_key=database.key
    ) as db:
        assert len(db.execute_admin(BODIES)) == 2


def test_a_plain_client_is_refused_with_what_to_do(database: SignedDatabase) -> None:
    """An identity that nobody has signed is an error, and never a user without rows."""
    with (
        PostgresClient(_url(database), 1, min_size=1) as db,
        pytest.raises(PostgresError, match="identity_key") as caught,
    ):
        db.execute(BODIES, (), VICTIM)
    assert caught.value.sqlstate == "28000"


@pytest.mark.parametrize("missing", ["key", "functions"])
def test_construction_refuses_what_the_server_does_not_know(
    database: SignedDatabase, missing: str
) -> None:
    """A wrong key, or a database without the functions, is told at once, without the key."""
    key = os.urandom(32)
    if missing == "functions":
        with superuser(database.server) as conn:
            conn.execute("DROP SCHEMA failfast CASCADE")
    with pytest.raises(PostgresConfigurationError, match=r"signed_identity\.sql") as caught:
        PostgresClient(_url(database), 1, identity_key=key)
    assert leaks_in(caught.value, key.hex(), str(key)) == []


def test_no_refusal_shows_the_key(database: SignedDatabase, db: PostgresClient) -> None:
    """Errors, their frames, stats and texts of the client hold no key."""
    _set_key(database, 2, os.urandom(32))
    _drop_former(database)
    with pytest.raises(PostgresError) as caught:
        db.execute(BODIES, (), VICTIM)
    shown = str([repr(db), db.stats(), repr(vars(db))])
    for form in (database.key.hex(), str(database.key)):
        assert leaks_in(caught.value, form) == []
        assert form not in shown


def test_two_keys_are_valid_at_once(database: SignedDatabase, db: PostgresClient) -> None:
    """The one before stays valid until it is dropped; a third one replaces it."""
    keys = [database.key, os.urandom(64), os.urandom(32)]
    with pytest.raises(psycopg.Error, match="number"):
        _set_key(database, 1, keys[1])
    _set_key(database, 2, keys[1])
    assert db.execute(BODIES, (), VICTIM) == [{"body": SECRET}]
    with PostgresClient(_url(database), 1, min_size=1, identity_key=keys[1]) as later:
        assert later.execute(BODIES, (), VICTIM) == [{"body": SECRET}]
        _set_key(database, 3, keys[2])
        assert later.execute(BODIES, (), VICTIM) == [{"body": SECRET}]
        with pytest.raises(PostgresError, match="28000"):
            db.execute(BODIES, (), VICTIM)


@pytest.mark.parametrize("way", ["execute", "execute_many"])
def test_a_call_with_an_old_key_gets_the_new_one(database: SignedDatabase, way: str) -> None:
    """Where the server refuses a signature, the callable is called once, and the call succeeds."""
    keys, calls = [database.key], []

    def give(*, use_cache: bool = True) -> bytes:
        calls.append(use_cache)
        return keys[0]

    with PostgresClient(_url(database), 1, min_size=1, identity_key=give) as db:
        for number in range(2, 4):
            keys[0] = os.urandom(32)
            _set_key(database, number, keys[0])
            _drop_former(database)
            calls.clear()
            if way == "execute":
                assert db.execute(BODIES, (), VICTIM) == [{"body": SECRET}]
            else:
                assert db.execute_many(ADD, [(MALLORY, "more")] * 2, MALLORY) == 2
            assert calls == [False]
            identity_key_pause_over(db)
    assert len(database.rows("signed_notes")) == (2 if way == "execute" else 6)


def identity_key_pause_over(db: PostgresClient) -> None:
    """Let the second pass in which the callable is not called again."""
    key = db._connector.identity_key
    assert key is not None
    key._next_renewal_at = 0.0


def test_rotation_under_load_costs_no_call(
    database: SignedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls and blocks of eight threads go on while the key is replaced three times."""
    monkeypatch.setattr(identity_key, "_CALL_AGAIN", 0.0)
    monkeypatch.setattr(identity_key, "_PAUSE", 0.0)
    keys = [database.key]

    def call(db: PostgresClient, number: int) -> None:
        user, body = ((VICTIM, SECRET), (MALLORY, "of Mallory"))[number % 2]
        if number % 3:
            assert db.execute(BODIES, (), user) == [{"body": body}]
        else:
            with db.connection(user) as conn:
                assert conn.execute(BODIES).fetchall() == [{"body": body}]

    with (
        PostgresClient(_url(database), 4, pool_timeout=60, identity_key=lambda: keys[0]) as db,
        ThreadPoolExecutor(8) as threads,
    ):
        for number in range(2, 5):
            done = [threads.submit(call, db, n) for n in range(120)]
            new = os.urandom(32)
            _set_key(database, number, new)
            keys[0] = new
            for one in done:
                one.result()
            _drop_former(database)
            for one in [threads.submit(call, db, n) for n in range(20)]:
                one.result()


def test_build_clients_takes_the_key_of_the_secret(
    stack: StackEndpoints, fault_server: PostgresServer
) -> None:
    """A field ``identity_key`` beside the URL turns signing on, and follows a rotation."""
    database = make_signed(fault_server)
    vault = direct_client(stack.vault_addr, _text(stack.vault_root_token))
    secret = {"url": _url(database), "identity_key": database.key.hex()}

    def store() -> None:
        vault.secrets.kv.v2.create_or_update_secret("signed/database", secret)

    store()
    with (
        VaultClient(stack.vault_addr, _text(stack.vault_token)) as secrets,
        build_clients(vault=secrets, database_path="signed/database") as clients,
    ):
        assert clients.postgres.execute(BODIES, (), VICTIM) == [{"body": SECRET}]
        new = os.urandom(32)
        secret["identity_key"] = new.hex()
        store()
        _set_key(database, 2, new)
        _drop_former(database)
        # Vault's client has the old one in its cache.
        assert clients.postgres.execute(BODIES, (), VICTIM) == [{"body": SECRET}]
        with pytest.raises(PostgresConfigurationError) as caught:
            build_clients(
                vault=secrets,
                database_path="signed/database",
                postgres=PostgresOptions(identity_key=database.key),
            )
        assert leaks_in(caught.value, new.hex(), database.key.hex(), str(database.key)) == []


def _text(secret: Any) -> str:
    return secret if isinstance(secret, str) else str(secret.reveal())


@pytest.mark.pgbouncer
def test_behind_a_pooler_the_expiry_binds_alone(
    fault_server: PostgresServer, pgbouncer: PgBouncerServer
) -> None:
    """The client does not know the server's process there, and signs for any, for a minute."""
    database = make_signed(fault_server)
    with PostgresClient(pgbouncer.url(), 2, identity_key=database.key) as db:
        assert db.behind_pooler
        for _ in range(7):
            assert db.execute(BODIES, (), VICTIM) == [{"body": SECRET}]
            with db.connection(MALLORY) as conn:
                assert conn.execute(BODIES).fetchall() == [{"body": "of Mallory"}]
        [row] = db.execute(f"SELECT current_setting('{SETTING}') AS signed", (), VICTIM)
    with (
        PostgresClient(_url(database), 1, min_size=1, identity_key=database.key) as direct,
        direct.connection(MALLORY) as conn,
    ):
        # So any session takes it.
        conn.execute(f"SELECT set_config('{SETTING}', %s, true)", (row["signed"],))
        assert conn.execute(BODIES).fetchall() == [{"body": SECRET}]


def test_a_function_first_in_the_roles_path_is_handed_no_signature(
    database: SignedDatabase,
) -> None:
    """A role may set its own search_path for all later sessions: the context names its schema."""
    with superuser(database.server) as conn:
        conn.execute("CREATE SCHEMA hers; GRANT ALL ON SCHEMA hers TO crm_user")
    try:
        with psycopg.connect(_url(database), autocommit=True) as conn:
            conn.execute("CREATE TABLE hers.loot (call text)")
            for call, kind, value in (
                ("set_config(a text, b text, c boolean)", "text", "pg_catalog.set_config(a, b, c)"),
                ("current_setting(a text, b boolean)", "text", "pg_catalog.current_setting(a, b)"),
                ("pg_backend_pid()", "integer", "0"),
                ("pg_advisory_unlock_all()", "void", ""),
                ("now()", "timestamptz", "pg_catalog.now()"),
            ):
                conn.execute(
                    f"CREATE FUNCTION hers.{call} RETURNS {kind} LANGUAGE sql AS $$"
                    f"INSERT INTO hers.loot VALUES ('{call}'); SELECT {value}$$".encode()
                )
            conn.execute("ALTER ROLE crm_user SET search_path = hers, pg_catalog, public")
        with PostgresClient(_url(database), 1, min_size=1, identity_key=database.key) as db:
            assert not db.behind_pooler
            assert db.execute(BODIES, (), VICTIM) == [{"body": SECRET}]
            assert db.execute_many(ADD, [(VICTIM, "more")], VICTIM) == 1
            with db.connection(VICTIM) as conn:
                conn.execute("SET application_name = 'mine'")
                conn.execute(BODIES)
        with superuser(database.server) as conn:
            assert conn.execute("SELECT call FROM hers.loot").fetchall() == []
    finally:
        with superuser(database.server) as conn:
            conn.execute("ALTER ROLE crm_user RESET ALL; DROP SCHEMA hers CASCADE")


def test_default_privileges_grant_nothing_of_the_key(fault_server: PostgresServer) -> None:
    """What the owner grants on everything new is taken back: a TRIGGER would read the next key."""
    kinds = ("TABLES", "FUNCTIONS", "SCHEMAS")
    with superuser(fault_server) as conn:
        for kind in kinds:
            conn.execute(f"ALTER DEFAULT PRIVILEGES GRANT ALL ON {kind} TO crm_user".encode())
        try:
            make_signed(fault_server)
            [rights] = conn.execute(
                "SELECT has_table_privilege(u, t, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE,"
                " REFERENCES, TRIGGER'), has_schema_privilege(u, 'failfast', 'CREATE'),"
                " has_function_privilege(u, 'failfast.set_identity_key(integer, bytea)',"
                " 'EXECUTE'),"
                " has_function_privilege(u, 'failfast.drop_former_identity_key()', 'EXECUTE'),"
                " has_function_privilege(u, 'failfast.other_identity(text)', 'EXECUTE'),"
                " NOT has_function_privilege(u, 'failfast.identity_uuid(text)', 'EXECUTE'),"
                " NOT has_schema_privilege(u, 'failfast', 'USAGE')"
                " FROM (VALUES ('crm_user', 'failfast.identity_keys')) AS v (u, t)"
            ).fetchall()
        finally:
            for kind in kinds:
                text = f"ALTER DEFAULT PRIVILEGES REVOKE ALL ON {kind} FROM crm_user"
                conn.execute(text.encode())
    assert not any(rights)


@pytest.mark.parametrize(
    ("call", "state"),
    [
        ("SELECT failfast.set_identity_key(1, %s)", "23505"),
        ("SELECT failfast.set_identity_key(0, %s)", "22023"),
        ("SELECT failfast.set_identity_key(2, substr(%s, 1, 31))", "22023"),
        ("SELECT failfast.set_identity_key(2, NULL), %s", "22023"),
    ],
)
def test_what_is_no_key_or_has_no_new_number_is_refused(
    database: SignedDatabase, call: str, state: str
) -> None:
    """A key that would be weak, or replace one that is in use, is not taken."""
    with superuser(database.server) as conn, pytest.raises(psycopg.Error) as caught:
        conn.execute(call.encode(), (database.key,))
    assert caught.value.sqlstate == state


def test_a_repeatable_read_transaction_goes_on_after_a_rotation(
    database: SignedDatabase, db: PostgresClient
) -> None:
    """A transaction that has begun is judged by the keys that its snapshot shows."""
    with db.connection(VICTIM, isolation="repeatable read") as conn:
        assert conn.execute(BODIES).fetchall() == [{"body": SECRET}]
        _set_key(database, 2, os.urandom(32))
        _drop_former(database)
        assert conn.execute(BODIES).fetchall() == [{"body": SECRET}]

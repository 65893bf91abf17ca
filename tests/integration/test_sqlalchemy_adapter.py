"""SQLAlchemy sessions and connections keep what the client promises."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import psycopg
import pytest
import sqlalchemy
from sqlalchemy import MetaData, Table, func, insert, select, text
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from clients.errors import (
    PostgresConfigurationError,
    PostgresError,
    RlsContextError,
    TransactionAbortedError,
)
from clients.identity import user_context
from clients.postgres_client import PostgresClient
from clients.sqlalchemy_adapter import create_engine
from tests.fault_proxy import FaultProxy
from tests.identity_examples import TENANTS
from tests.postgres_helpers import client_that_loses_nothing
from tests.sqlalchemy_models import Contact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Engine

    from utils._stack.postgres import PostgresServer

COUNT = select(func.count()).select_from(Contact)
PID = text("SELECT pg_backend_pid()")


@pytest.fixture(scope="module")
def proxy(own_postgres: PostgresServer) -> Iterator[FaultProxy]:
    with FaultProxy(own_postgres.port) as relay:
        yield relay


@pytest.fixture
def db(own_postgres: PostgresServer, proxy: FaultProxy) -> Iterator[PostgresClient]:
    """A client with one session: each transaction is the last one's next borrower."""

    def through_proxy(role: str) -> str:
        parts = urlsplit(own_postgres.url(role, "secret"))
        return urlunsplit(parts._replace(netloc=f"{role}:secret@127.0.0.1:{proxy.port}"))

    with client_that_loses_nothing(
        through_proxy("crm_user"), 1, admin_url=through_proxy("crm_admin"), pool_timeout=0.5
    ) as made:
        yield made


def whose(user: UUID) -> dict[str, Any]:
    """Return a session's info for *user*."""
    return {"identity": {"user_id": user}}


def count_of(engine: Engine, user: UUID) -> int:
    with Session(engine, info=whose(user)) as session:
        return int(session.scalars(COUNT).one())


def add(engine: Engine, user: UUID, *names: str) -> None:
    with Session(engine, info=whose(user)) as session:
        session.add_all([Contact(user_id=user, name=name) for name in names])
        session.commit()


def test_the_three_ways_to_say_whose_rows(engine: Engine, ada: UUID) -> None:
    """The current user, the session's info and execution options each choose the rows."""
    add(engine, ada, "one", "two")

    with user_context(ada), Session(engine) as session:
        assert [c.name for c in session.scalars(select(Contact).order_by(Contact.name))] == [
            *("one", "two")
        ]
    with engine.connect().execution_options(identity={"user_id": ada}) as conn:
        assert conn.scalar(COUNT) == 2
    with engine.execution_options(identity={"user_id": ada}).connect() as conn:
        assert conn.scalar(COUNT) == 2
    with Session(engine) as session:
        assert session.scalar(COUNT, execution_options={"identity": {"user_id": ada}}) == 2
    with user_context(ada):
        assert count_of(engine, uuid4()) == 0


def test_nobody_sends_nothing(engine: Engine, proxy: FaultProxy) -> None:
    """Without an identity the first statement raises, and not a byte goes to the server."""
    proxy.reset_counts()

    with pytest.raises(RlsContextError), Session(engine) as session:
        session.scalars(select(Contact)).all()
    with pytest.raises(RlsContextError), engine.connect() as conn:
        conn.execute(text("SELECT 1"))

    assert proxy.bytes_up == 0


def test_one_transaction_belongs_to_one_identity(engine: Engine, ada: UUID) -> None:
    """Another current user, option or session in an open transaction is refused, not ignored."""
    bob = uuid4()
    with user_context(ada), Session(engine) as session:
        session.scalar(COUNT)
        with user_context(bob), pytest.raises(RlsContextError):
            session.scalar(COUNT)
        with pytest.raises(RlsContextError):
            session.scalar(COUNT, execution_options={"identity": {"user_id": bob}})
    with engine.connect() as conn, user_context(ada):
        conn.scalar(COUNT)
        joined = Session(conn, info=whose(bob))
        with pytest.raises(RlsContextError):
            joined.scalar(COUNT)
        joined.close()


def test_a_transaction_of_one_statement_is_two_round_trips(
    engine: Engine, proxy: FaultProxy, ada: UUID
) -> None:
    """The first statement travels with BEGIN and the identity, the second trip is COMMIT."""
    with user_context(ada), Session(engine) as session:
        session.scalar(COUNT)
        session.commit()
        proxy.reset_counts()
        session.scalar(COUNT)
        assert proxy.round_trips == 1
        session.commit()
        assert proxy.round_trips == 2


def test_a_session_that_goes_on_has_its_identity_again(engine: Engine, ada: UUID) -> None:
    """After commit() and rollback() the next transaction is the same user's."""
    with Session(engine, info=whose(ada)) as session:
        session.add(Contact(user_id=ada, name="one"))
        session.commit()
        session.add(Contact(user_id=ada, name="two"))
        session.flush()
        session.rollback()
        assert session.scalar(COUNT) == 1
    with engine.connect().execution_options(identity={"user_id": ada}) as conn:
        conn.execute(insert(Contact).values(user_id=ada, name="three"))
        conn.commit()
        assert conn.scalar(COUNT) == 2


def test_savepoints_undo_themselves_alone(engine: Engine, ada: UUID) -> None:
    """A failure in begin_nested() leaves the transaction usable, also as its first statement."""
    with Session(engine, info=whose(ada)) as session:
        with suppress(DBAPIError), session.begin_nested():
            session.execute(text("SELECT 1/0"))
        with session.begin_nested():
            session.add(Contact(user_id=ada, name="kept"))
        session.commit()
        assert session.scalar(COUNT) == 1


def test_autoflush_many_rows_and_streams(engine: Engine, ada: UUID) -> None:
    """Rows inserted at once return their keys, queries flush first, and yield_per streams."""
    with Session(engine, info=whose(ada)) as session:
        session.add_all([Contact(user_id=ada, name=f"n{n}") for n in range(50)])
        assert session.scalar(COUNT) == 50
        rows = session.scalars(select(Contact).execution_options(yield_per=7))
        assert len({row.id for row in rows}) == 50
        session.commit()
        stream = session.scalars(select(Contact.name).execution_options(yield_per=7))
        assert len(list(stream)) == 50
        values = [{"user_id": ada, "name": f"m{n}"} for n in range(20)]
        made = session.scalars(insert(Contact).returning(Contact.id), values).all()
        assert len(set(made)) == 20
        session.execute(
            text("INSERT INTO contacts (user_id, name) VALUES (:user_id, :name)"), values
        )
        assert session.scalar(COUNT) == 90


def test_reflection_and_the_administrator(db: PostgresClient, engine: Engine, ada: UUID) -> None:
    """An engine with admin=True has no identity and sees all rows; it refuses one."""
    add(engine, ada, "one")
    admin = create_engine(db, admin=True)

    with admin.connect() as conn:
        assert "user_id" in Table("contacts", MetaData(), autoload_with=conn).columns
        assert conn.scalar(COUNT.where(Contact.user_id == ada)) == 1
    with pytest.raises(RlsContextError), Session(admin, info=whose(ada)) as session:
        session.scalar(COUNT)


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_isolation_levels_ride_with_begin(db: PostgresClient, ada: UUID, level: str) -> None:
    """The engine's level and the connection's are the transaction's; read only likewise."""
    show = text("SHOW transaction_isolation")
    with user_context(ada):
        with create_engine(db, isolation_level=level).connect() as conn:
            assert str(conn.scalar(show)).upper() == level
        options = {"isolation_level": level, "postgresql_readonly": True}
        with create_engine(db).connect().execution_options(**options) as conn:
            assert str(conn.scalar(show)).upper() == level
            assert conn.scalar(text("SHOW transaction_read_only")) == "on"
        with create_engine(db).connect() as conn:
            assert conn.scalar(show) == "read committed"


def test_what_is_refused_says_so(db: PostgresClient, engine: Engine) -> None:
    """AUTOCOMMIT, DEFERRABLE, two phases, asyncio and a URL without a client are refused."""
    with pytest.raises(PostgresConfigurationError, match="AUTOCOMMIT"):
        create_engine(db, isolation_level="AUTOCOMMIT")
    with engine.connect() as conn:
        with pytest.raises(PostgresConfigurationError, match="AUTOCOMMIT"):
            conn.execution_options(isolation_level="AUTOCOMMIT")
        with pytest.raises(PostgresConfigurationError, match="DEFERRABLE"):
            conn.execution_options(postgresql_deferrable=True)
    with engine.connect() as conn, pytest.raises(PostgresConfigurationError, match="two-phase"):
        conn.begin_twophase()
    with pytest.raises(PostgresConfigurationError, match="asyncio"):
        create_async_engine("postgresql+failfast://")
    with pytest.raises(PostgresConfigurationError, match="create_engine"):
        sqlalchemy.create_engine("postgresql+failfast://x:y@127.0.0.1/z").connect()


@pytest.mark.parametrize(
    "name",
    [
        *("async_creator", "connect_args", "creator", "module", "json_deserializer"),
        *("json_serializer", "max_overflow", "pool", "pool_pre_ping", "pool_recycle"),
        *("pool_reset_on_return", "pool_size", "pool_timeout", "pool_use_lifo", "poolclass"),
        "use_native_hstore",
    ],
)
def test_arguments_that_are_the_clients_are_refused_by_name(db: PostgresClient, name: str) -> None:
    """The message names the argument and what to use instead."""
    with pytest.raises(PostgresConfigurationError, match=rf"\b{name}: use"):
        create_engine(db, admin=False, **{name: None})


def test_two_clients_have_two_engines(
    db: PostgresClient, engine: Engine, own_postgres: PostgresServer, ada: UUID
) -> None:
    """Sessions of two engines are open at once, each with its own user."""
    bob = uuid4()
    add(engine, ada, "one")
    with PostgresClient(own_postgres.url("crm_user", "secret"), 1) as other:
        second = create_engine(other)
        with Session(engine, info=whose(ada)) as a, Session(second, info=whose(bob)) as b:
            assert (a.scalar(COUNT), b.scalar(COUNT), a.scalar(COUNT)) == (1, 0, 1)


@pytest.mark.parametrize("sql", ["COMMIT", "ROLLBACK", "COMMIT AND CHAIN"])
@pytest.mark.parametrize("is_first", [True, False])
def test_sql_text_that_ends_the_transaction_is_caught(
    engine: Engine, ada: UUID, sql: str, *, is_first: bool
) -> None:
    """The next statement raises, wherever the text stood; the session works after a rollback."""
    with Session(engine, info=whose(ada)) as session:
        if not is_first:
            session.scalar(COUNT)
        session.execute(text(sql))
        with pytest.raises(RlsContextError):
            session.scalar(COUNT)
        session.rollback()
        session.execute(text(sql))
        with pytest.raises(RlsContextError):
            session.commit()
    assert count_of(engine, ada) == 0


@pytest.mark.parametrize("is_first", [True, False])
def test_a_swallowed_error_commits_nothing(engine: Engine, ada: UUID, *, is_first: bool) -> None:
    """A commit after a swallowed error raises, also when the first statement had failed."""
    with Session(engine, info=whose(ada)) as session:
        if not is_first:
            session.execute(insert(Contact).values(user_id=ada, name="lost"))
        with suppress(DBAPIError):
            session.execute(text("SELECT 1/0"))
        with pytest.raises(DBAPIError):
            session.execute(insert(Contact).values(user_id=ada, name="lost"))
        with pytest.raises(TransactionAbortedError):
            session.commit()
    assert count_of(engine, ada) == 0


def test_what_is_kept_after_the_transaction_is_dead(engine: Engine, ada: UUID) -> None:
    """Cursors and connections of an ended transaction raise."""
    with user_context(ada):
        raw = engine.raw_connection()
        cursor = raw.cursor()
        cursor.execute("SELECT 1")
        driver = raw.driver_connection
        raw.commit()
        with pytest.raises(PostgresError):
            cursor.fetchall()
        with pytest.raises(PostgresError):
            cursor.execute("SELECT 1")
        raw.close()
        assert driver is not None
        with pytest.raises(PostgresError):
            driver.cursor()


@pytest.mark.parametrize(
    ("run", "error"),
    [
        (lambda c: c.execute(text("SELECT 1/0")), DBAPIError),
        (lambda c: c.execute(text("SELECT FROM")), ProgrammingError),
        (lambda c: c.execute(text("SELECT :x"), {"x": object()}), ProgrammingError),
        (lambda c: c.execute(text("SELECT :x"), {"x": "\0"}), DBAPIError),
        (lambda c: c.exec_driver_sql("SELECT 1 \0 WHERE false"), ProgrammingError),
        (lambda c: c.exec_driver_sql("COPY contacts TO STDOUT"), Exception),
    ],
    ids=["server", "syntax", "parameter", "NUL", "NUL in the query", "COPY"],
)
def test_a_first_statement_that_fails_spoils_nothing(
    db: PostgresClient, engine: Engine, ada: UUID, run: Callable[..., Any], error: type[Exception]
) -> None:
    """After a rollback the same connection works, and the pool has its session back."""
    with engine.connect().execution_options(identity={"user_id": ada}) as conn:
        with pytest.raises(error):
            run(conn)
        conn.rollback()
        assert db.stats()["in_use"] == 0
        assert conn.scalar(COUNT) == 0
    assert db.stats()["in_use"] == 0


def test_errors_keep_their_families(engine: Engine, ada: UUID) -> None:
    """Errors of psycopg come wrapped by SQLAlchemy, with the original; ours come as they are."""
    with Session(engine, info=whose(ada)) as session:
        session.add(Contact(user_id=uuid4(), name="foreign"))
        with pytest.raises(ProgrammingError) as caught:
            session.commit()
    assert isinstance(caught.value.orig, psycopg.errors.InsufficientPrivilege)
    with pytest.raises(RlsContextError), Session(engine, info={"identity": {"user": 1}}) as other:
        other.scalar(COUNT)


@pytest.mark.parametrize(
    ("spoil", "look"),
    [
        ("SET search_path = pg_catalog", "SELECT current_setting('search_path') = 'pg_catalog'"),
        ("SET row_security = off", "SELECT current_setting('row_security') = 'off'"),
        ("CREATE TEMP TABLE notes2 (a int)", "SELECT to_regclass('pg_temp.notes2') IS NOT NULL"),
    ],
)
def test_session_state_does_not_reach_the_next_borrower(
    engine: Engine, ada: UUID, spoil: str, look: str
) -> None:
    """Settings and temporary tables are gone on the same backend."""
    with Session(engine, info=whose(ada)) as session:
        pid = session.scalar(PID)
        session.execute(text(spoil))
        assert session.scalar(text(look)) is True
        session.commit()
    with Session(engine, info=whose(uuid4())) as session:
        assert session.scalar(text(look)) is False
        assert session.scalar(PID) == pid


def test_a_rollback_in_sql_brings_back_nothing_of_the_last_borrower(
    db: PostgresClient, engine: Engine, ada: UUID
) -> None:
    """Not Ada's settings, and not her identity under a name that looks like the transaction's."""
    bob = uuid4()
    with Session(engine, info=whose(bob)) as session:
        mark = session.scalar(text("SELECT current_setting('application_name')"))
    leave = (
        "SELECT set_config('app.current_user_id', %s, false) AS who,"
        " set_config('application_name', %s, false) AS mark"
    )
    fails_if_left = (
        "ROLLBACK; DO $$ BEGIN IF current_setting('app.current_user_id', true) <> '' THEN"
        " RAISE 'it came back'; END IF; END $$"
    )
    for ending in (fails_if_left, "ROLLBACK AND CHAIN") * 4:  # until the reset is a prepared one
        for _ in range(3):
            db.execute("SELECT 1", user_id=bob)
        db.execute(leave, (str(ada), mark), user_id=ada)
        with Session(engine, info=whose(bob)) as session:
            session.execute(text("SELECT 1"))
            session.execute(text(ending))
            with pytest.raises(RlsContextError):
                session.execute(text("SELECT 1"))
            with pytest.raises(RlsContextError):
                session.commit()


def test_another_thread_may_go_on_with_a_session(engine: Engine, ada: UUID) -> None:
    """A transaction is handed to a thread whole, as a web framework does, and ends there."""
    with Session(engine, info=whose(ada)) as session:
        session.add(Contact(user_id=ada, name="one"))
        session.flush()
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(session.scalar, COUNT).result() == 1
            pool.submit(session.commit).result()
        assert session.scalar(COUNT) == 1


def test_an_identity_of_two_values(own_postgres: PostgresServer) -> None:
    """A tenant's user sees the rows of both values alone, through every way to say it."""
    with psycopg.connect(own_postgres.url(), autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {TENANTS.dbname}".encode())
    with psycopg.connect(own_postgres.url(dbname=TENANTS.dbname), autocommit=True) as conn:
        conn.execute(TENANTS.sql.encode())
        TENANTS.fill(conn)
    url = own_postgres.url(TENANTS.login, "secret", TENANTS.dbname)
    notes = text("SELECT tenant_id, user_id FROM notes")
    with PostgresClient(url, 1, **TENANTS.options) as client:
        engine = create_engine(client)
        for identity in TENANTS.identities:
            with Session(engine, info={"identity": identity}) as session:
                assert [tuple(row) for row in session.execute(notes)] == [TENANTS.values(identity)]
        with user_context("auth0|ada"), pytest.raises(RlsContextError), engine.connect() as half:
            half.execute(notes)

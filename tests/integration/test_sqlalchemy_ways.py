"""Every way that SQLAlchemy has into a transaction keeps to one identity."""

from __future__ import annotations

from contextlib import suppress
from functools import wraps
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy
from psycopg.rows import dict_row
from sqlalchemy import event, func, insert, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from clients.errors import (
    PostgresConfigurationError,
    RlsContextError,
)
from clients.identity import RlsSetting, user_context
from clients.postgres_client import PostgresClient
from clients.sqlalchemy_adapter import create_engine
from tests.postgres_faults import superuser
from tests.postgres_helpers import client_that_loses_nothing
from tests.sqlalchemy_models import Contact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection, Engine

    from utils._stack.postgres import PostgresServer

COUNT = select(func.count()).select_from(Contact)
WHO = "SELECT current_setting('app.current_user_id')"


@pytest.fixture
def db(own_postgres: PostgresServer) -> Iterator[PostgresClient]:
    """A client with one session, whose place is free again at the end."""
    url = own_postgres.url("crm_user", "secret")
    with client_that_loses_nothing(url, 1, pool_timeout=0.5) as made:
        yield made


def of(user: UUID) -> dict[str, Any]:
    """Return what says whose rows, in a session's info and among execution options."""
    return {"identity": {"user_id": user}}


def cursor_of(connection: Connection, **options: Any) -> Any:
    """Return a cursor of what stands in the driver's place."""
    driver: Any = connection.connection.driver_connection
    return driver.cursor(**options)


def raw(connection: Connection) -> str:
    """Return whose transaction a driver's cursor finds itself in."""
    with cursor_of(connection) as cursor:
        cursor.execute(WHO)
        return str(cursor.fetchone()[0])


WAYS: dict[str, Callable[[Engine, UUID], str]] = {}


def way(function: Callable[[Engine, UUID], str]) -> Callable[[Engine, UUID], str]:
    WAYS[function.__name__.strip("_").replace("_", " ")] = function
    return function


@way
def _session_connection(engine: Engine, user: UUID) -> str:
    with Session(engine, info=of(user)) as session:
        return str(session.connection().scalar(text(WHO)))


@way
def _session_connection_with_options(engine: Engine, user: UUID) -> str:
    with Session(engine) as session:
        return str(session.connection(execution_options=of(user)).scalar(text(WHO)))


@way
def _cursor_of_a_session(engine: Engine, user: UUID) -> str:
    with Session(engine, info=of(user)) as session:
        return raw(session.connection())


@way
def _cursor_of_a_connection_with_options(engine: Engine, user: UUID) -> str:
    with engine.connect() as conn:
        return raw(conn.execution_options(**of(user)))


@way
def _cursor_of_an_engine_with_options(engine: Engine, user: UUID) -> str:
    with engine.execution_options(**of(user)).connect() as conn:
        return raw(conn)


@way
def _second_transaction_of_a_cursor(engine: Engine, user: UUID) -> str:
    with engine.connect() as conn:
        mine = conn.execution_options(**of(user))
        raw(mine)
        mine.connection.rollback()
        return raw(mine)


@way
def _begin(engine: Engine, user: UUID) -> str:
    with engine.execution_options(**of(user)).begin() as conn:
        return str(conn.exec_driver_sql(WHO).scalar())


@way
def _option_of_a_statement(engine: Engine, user: UUID) -> str:
    with engine.connect() as conn:
        return str(conn.execute(text(WHO), execution_options=of(user)).scalar())


@way
def _sessionmaker(engine: Engine, user: UUID) -> str:
    with sessionmaker(engine, info=of(user)).begin() as session:
        return str(session.scalar(text(WHO)))


@way
def _scoped_session(engine: Engine, user: UUID) -> str:
    registry = scoped_session(sessionmaker(engine, info=of(user)))
    found = str(registry.scalar(text(WHO)))
    registry.remove()
    return found


@way
def _listener_of_begin(engine: Engine, user: UUID) -> str:
    found: list[str] = []
    session = Session(engine, info=of(user))
    event.listen(session, "after_begin", lambda *a: found.append(str(a[2].scalar(text(WHO)))))
    with session:
        session.scalar(text("SELECT 1"))
    return found[0]


@way
def _savepoint_that_a_listener_begins(engine: Engine, user: UUID) -> str:
    found: list[str] = []

    def nested(session: Session, *_: object) -> None:
        with session.begin_nested():
            found.append(str(session.scalar(text(WHO))))

    session = Session(engine, info=of(user))
    event.listen(session, "before_flush", nested)
    with session:
        session.add(Contact(user_id=user, name="nested"))
        session.commit()
    return found[0]


@way
def _session_that_joins_a_transaction(engine: Engine, user: UUID) -> str:
    with engine.connect().execution_options(**of(user)) as conn, conn.begin():
        for _ in range(2):
            with Session(conn, join_transaction_mode="create_savepoint") as session:
                session.add(Contact(user_id=user, name="joined"))
                session.commit()
        assert conn.scalar(COUNT) == 2
        return str(conn.scalar(text(WHO)))


@way
def _server_side_cursor(engine: Engine, user: UUID) -> str:
    with engine.connect().execution_options(stream_results=True, **of(user)) as conn:
        return str(conn.execute(text(WHO)).scalar())


@way
def _after_dispose(engine: Engine, user: UUID) -> str:
    with Session(engine, info=of(user)) as session:
        session.scalar(COUNT)
        engine.dispose()
        session.commit()
        return str(session.scalar(text(WHO)))


@way
def _after_an_invalidated_connection(engine: Engine, user: UUID) -> str:
    with Session(engine, info=of(user)) as session:
        session.connection().invalidate()
        session.rollback()
        return str(session.scalar(text(WHO)))


@pytest.mark.parametrize("name", WAYS)
def test_the_identity_that_is_given_stands_over_the_ambient_one(
    engine: Engine, ada: UUID, bob: UUID, name: str
) -> None:
    """Inside another user's context each way finds itself in the transaction of its own."""
    with user_context(bob):
        assert WAYS[name](engine, ada) == str(ada)
    assert WAYS[name](engine, bob) == str(bob)


@pytest.mark.parametrize("change", ["info", "value", "ambient part"])
def test_an_identity_that_changes_in_a_transaction_is_refused(
    own_postgres: PostgresServer, ada: UUID, bob: UUID, change: str
) -> None:
    """In a session's info, in the dict that it had, and in the ambient part of it."""
    settings = {
        "user_id": RlsSetting("app.current_user_id", UUID),
        "tenant_id": RlsSetting("app.tenant_id", int),
    }
    identity: dict[str, object] = {"user_id": ada}
    info: dict[Any, Any] = {"identity": identity}
    url = own_postgres.url("crm_user", "secret")
    with (
        PostgresClient(url, 1, identity=settings) as client,
        user_context(tenant_id=1),
        Session(create_engine(client), info=info) as session,
    ):
        session.scalar(COUNT)
        if change == "info":
            session.info["identity"] = {"user_id": bob}
        elif change == "value":
            identity["user_id"] = bob
        with user_context(tenant_id=2 if change == "ambient part" else 1):
            for _ in range(2):
                with pytest.raises(RlsContextError, match="another identity"):
                    session.scalar(COUNT)
            session.rollback()
            expected = ada if change == "ambient part" else bob
            assert session.scalar(text(WHO)) == str(expected)


def test_options_with_another_identity_are_refused_in_a_transaction(
    engine: Engine, ada: UUID, bob: UUID
) -> None:
    """At once, for a driver's cursor does not see them; the next transaction may have them."""
    with engine.connect().execution_options(**of(ada)) as conn:
        conn.scalar(COUNT)
        conn.execution_options(**of(ada))
        with pytest.raises(RlsContextError, match="another identity"):
            conn.execution_options(**of(bob))
        assert raw(conn) == str(ada)
        conn.rollback()
        assert conn.scalar(text(WHO)) == str(ada)
        conn.rollback()
        assert raw(conn.execution_options(**of(bob))) == str(bob)


def test_an_instrumentation_of_sqlalchemy_records_nothing_a_second_time(
    db: PostgresClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What wraps create_engine() to listen to its engines does not get the client's."""
    original, instrumented = sqlalchemy.create_engine, list[sqlalchemy.Engine]()

    @wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> sqlalchemy.Engine:
        instrumented.append(original(*args, **kwargs))
        return instrumented[-1]

    monkeypatch.setattr(sqlalchemy, "create_engine", wrapper)
    sqlalchemy.create_engine("sqlite://")
    create_engine(db)
    assert [one.dialect.name for one in instrumented] == ["sqlite"]


def test_a_context_of_another_client_may_change_in_a_transaction(engine: Engine, ada: UUID) -> None:
    """A name that this client does not know is no part of its identity."""
    with Session(engine, info=of(ada)) as session, user_context(tenant_id=1):
        session.scalar(COUNT)
        with user_context(uuid4(), tenant_id=2):
            assert session.scalar(text(WHO)) == str(ada)


def test_a_drivers_cursor_does_what_psycopgs_does(engine: Engine, ada: UUID) -> None:
    """Also before a transaction has begun: COPY, row factories, iteration, many rows, ``with``."""
    with engine.connect().execution_options(**of(ada)) as conn:
        with cursor_of(conn) as cursor:
            with cursor.copy("COPY (SELECT 7) TO STDOUT") as copy:
                assert [bytes(one) for one in copy] == [b"7\n"]
            conn.rollback()
        with cursor_of(conn, row_factory=dict_row) as cursor:
            assert (cursor.description, cursor.rowcount) == (None, -1)
            cursor.execute("SELECT 1 AS one")
            assert list(cursor) == [{"one": 1}]
        conn.rollback()
        with cursor_of(conn) as cursor:
            cursor.executemany(
                "INSERT INTO contacts (user_id, name) VALUES (%s, %s)", [(ada, "a"), (ada, "b")]
            )
            assert cursor.rowcount == 2
        assert conn.scalar(COUNT) == 2


def test_copy_into_a_temporary_table_belongs_to_the_transaction(engine: Engine, ada: UUID) -> None:
    """Rows go in by COPY and on by INSERT ... SELECT, which the policies check."""
    with Session(engine, info=of(ada)) as session:
        session.execute(text("CREATE TEMP TABLE incoming (name text) ON COMMIT DROP"))
        cursor = cursor_of(session.connection())
        with cursor, cursor.copy("COPY incoming FROM STDIN") as copy:
            for name in ("one", "two"):
                copy.write_row((name,))
        move = "INSERT INTO contacts (user_id, name) SELECT :user, name FROM incoming"
        with pytest.raises(DBAPIError), session.begin_nested():
            session.execute(text(move), {"user": uuid4()})
        session.execute(text(move), {"user": ada})
        session.commit()
        assert session.scalar(COUNT) == 2


@pytest.mark.slow
def test_more_rows_than_one_statement_takes(engine: Engine, ada: UUID) -> None:
    """Inserts in several statements return the keys of all rows, in their order."""
    rows = [{"user_id": ada, "name": f"{n:05}"} for n in range(2_500)]
    with Session(engine, info=of(ada)) as session:
        made = insert(Contact).returning(Contact.name, sort_by_parameter_order=True)
        assert [*session.scalars(made, rows)] == [row["name"] for row in rows]
        session.commit()
        assert session.scalar(COUNT) == 2_500


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"isolation_level": "autocommit"}, "AUTOCOMMIT"),
        ({"execution_options": {"isolation_level": "AUTOCOMMIT"}}, "AUTOCOMMIT"),
        ({"execution_options": {"postgresql_deferrable": True}}, "DEFERRABLE"),
        ({"native_inet_types": False}, "configure="),
        ({"pool_size": 5, "max_overflow": 3}, "max_overflow, pool_size"),
    ],
    ids=["level", "level among options", "deferrable", "inet", "two at once"],
)
def test_what_the_engine_cannot_be_told(
    db: PostgresClient, ada: UUID, options: dict[str, Any], words: str
) -> None:
    """It is refused by name, when the engine is made or at its first connection."""
    with pytest.raises(PostgresConfigurationError, match=words), user_context(ada):
        create_engine(db, **options).connect()


def test_what_a_session_cannot_be_told(engine: Engine, ada: UUID) -> None:
    """Two-phase commit and AUTOCOMMIT for one transaction are refused; the session goes on."""
    with user_context(ada):
        two_phase = pytest.raises(PostgresConfigurationError, match="two-phase")
        with two_phase, Session(engine, twophase=True) as session:
            session.scalar(COUNT)
        with Session(engine) as session:
            with pytest.raises(PostgresConfigurationError, match="AUTOCOMMIT"):
                session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
            session.rollback()
            assert session.scalar(COUNT) == 0


def test_a_session_that_is_dropped_gives_its_place_back(
    db: PostgresClient, engine: Engine, ada: UUID
) -> None:
    """Without close(), as with one: nothing is committed, and the next borrower has the place."""
    session = Session(engine, info=of(ada))
    session.execute(insert(Contact).values(user_id=ada, name="dropped"))
    del session
    import gc  # noqa: PLC0415 - SQLAlchemy's session and its transaction refer to each other

    gc.collect()
    with Session(engine, info=of(ada)) as other:
        assert other.scalar(COUNT) == 0


def test_no_plan_of_one_user_runs_for_another(own_postgres: PostgresServer) -> None:
    """Where a policy leans on an IMMUTABLE function of the database, each user has own plans."""
    users = [uuid4(), uuid4()]
    with superuser(own_postgres) as conn:
        conn.execute(
            """
            CREATE TABLE labelled (user_id uuid NOT NULL, name text);
            CREATE FUNCTION whose() RETURNS uuid IMMUTABLE LANGUAGE sql AS
                $$ SELECT current_setting('app.current_user_id')::uuid $$;
            ALTER TABLE labelled ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
            CREATE POLICY own ON labelled USING (user_id = whose());
            GRANT SELECT ON labelled TO crm_user;
            """
        )
        for user in users:
            conn.execute("INSERT INTO labelled VALUES (%s, 'x')", (user,))
    query = text("SELECT user_id FROM labelled WHERE name = :name")
    try:
        with PostgresClient(own_postgres.url("crm_user", "secret"), 1) as client:
            engine = create_engine(client)
            for turn in range(40):
                user = users[turn // 20]
                with Session(engine, info=of(user)) as session:
                    for _ in range(2):
                        assert session.scalars(query, {"name": "x"}).all() == [user]
    finally:
        with superuser(own_postgres) as conn:
            conn.execute("DROP TABLE labelled; DROP FUNCTION whose")


def test_a_statement_that_fails_in_a_listener_ends_no_other_transaction(
    engine: Engine, ada: UUID
) -> None:
    """What a listener swallows is the session's to roll back, as its own errors are."""
    session = Session(engine, info=of(ada))

    def fail(_: Session, __: object, connection: Connection) -> None:
        with suppress(DBAPIError):
            connection.execute(text("SELECT 1/0"))

    event.listen(session, "after_begin", fail)
    with session:
        with pytest.raises(DBAPIError):
            session.scalar(COUNT)
        session.rollback()
    with Session(engine, info=of(ada)) as other:
        assert other.scalar(COUNT) == 0


def test_a_name_of_the_dialect_is_of_no_use_without_a_client() -> None:
    """A URL with our dialect's name is refused, in place of a connection without promises."""
    engine = sqlalchemy.create_engine("postgresql+failfast://u:p@127.0.0.1:1/d")
    with pytest.raises(PostgresConfigurationError, match="create_engine"):
        engine.connect()

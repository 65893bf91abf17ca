"""The first statement of an SQLAlchemy transaction is prepared, and nobody notices otherwise."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from clients.errors import ClientError
from clients.postgres_client import PostgresClient
from clients.sqlalchemy_adapter import create_engine
from tests.fault_proxy import FaultProxy
from tests.sqlalchemy_models import Contact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Engine

    from utils._stack.postgres import PostgresServer

MINE = select(Contact.user_id).distinct()
PREPARED = text("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%contacts%'")
_OFTEN = 12


@pytest.fixture(scope="module")
def proxy(own_postgres: PostgresServer) -> Iterator[FaultProxy]:
    with FaultProxy(own_postgres.port) as made:
        yield made


@pytest.fixture
def db(own_postgres: PostgresServer, proxy: FaultProxy) -> Iterator[PostgresClient]:
    """One session for every transaction."""
    url = own_postgres.url("crm_user", "secret").replace(
        f":{own_postgres.port}/", f":{proxy.port}/"
    )
    with PostgresClient(url, 1, min_size=1) as client:
        yield client


@pytest.fixture
def engine(db: PostgresClient) -> Engine:
    return create_engine(db)


@pytest.fixture
def users(db: PostgresClient) -> list[UUID]:
    """Three users with a row each."""
    made = [uuid4() for _ in range(3)]
    for user in made:
        db.execute("INSERT INTO contacts (user_id, name) VALUES (%s, 'one')", (user,), user)
    return made


def whose(user: UUID) -> dict[str, Any]:
    return {"identity": {"user_id": user}}


def test_a_statement_that_comes_again_is_prepared_in_its_own_round_trip(
    engine: Engine, proxy: FaultProxy, users: list[UUID]
) -> None:
    """Two round trips for each transaction, whoever's it is, the one that prepares included."""
    for number in range(3 * _OFTEN):
        user = users[number // 6 % 3]
        proxy.reset_counts()
        with Session(engine, info=whose(user)) as session, session.begin():
            assert session.scalars(MINE).all() == [user]
        assert proxy.round_trips == 2
    with Session(engine, info=whose(users[0])) as session:
        assert session.scalar(PREPARED) == 1


@pytest.fixture
def runs(own_postgres: PostgresServer) -> Iterator[Callable[[], int]]:
    """Count how often the sequence ``runs`` was asked for a number, which no rollback undoes."""
    with psycopg.connect(own_postgres.url(), autocommit=True) as su:
        su.execute("CREATE SEQUENCE runs; GRANT USAGE ON SEQUENCE runs TO crm_user")

        def count() -> int:
            row = su.execute("SELECT last_value - 1 + is_called::int FROM runs").fetchone()
            assert row is not None
            return int(row[0])

        yield count
        su.execute("DROP SEQUENCE runs")


@pytest.mark.parametrize("ends", ["commit", "rollback"])
def test_a_further_statement_is_never_run_in_place_of_the_guard(
    engine: Engine, users: list[UUID], runs: Callable[[], int], ends: str
) -> None:
    """What psycopg sends has taken the unnamed statement's place, where the guard had been."""
    # With one parameter or none, as the guard is; binary, so that it is parsed, and under no name.
    ways = [
        ("SELECT nextval('runs')", None),
        ("SELECT nextval('runs') WHERE %s::text IS NOT NULL", ("",)),
    ]
    for number in range(2 * _OFTEN):
        query, params = ways[number % 2]
        with Session(engine, info=whose(users[0])) as session:
            assert session.scalars(MINE).all() == [users[0]]
            session.connection().connection.cursor(binary=True).execute(query, params)
            getattr(session, ends)()
        with Session(engine, info=whose(users[0])) as session:
            assert session.scalars(MINE).all() == [users[0]]
        assert runs() == number + 1


def test_a_lock_of_the_session_ends_with_the_transaction(
    engine: Engine, own_postgres: PostgresServer, users: list[UUID]
) -> None:
    """The rest of what it leaves waits for the next borrower; for a lock others may be waiting."""
    with PostgresClient(own_postgres.url("crm_user", "secret"), 1) as other:
        for number in range(_OFTEN):
            with Session(engine, info=whose(users[0])) as session:
                session.scalars(MINE).all()
                session.execute(text("SELECT pg_advisory_lock(818)"))
                (session.commit if number % 2 else session.rollback)()
            free = "SELECT pg_try_advisory_xact_lock(818)"
            assert other.execute_scalar(free, user_id=users[1]) is True


SPOILS = [
    "SET search_path = pg_temp, pg_catalog",
    "SET row_security = off",
    "SET default_transaction_isolation = serializable",
    "SET default_transaction_read_only = on",
    "CREATE TEMP TABLE contacts AS SELECT '{other}'::uuid AS user_id, 'forged' AS name",
    "SELECT set_config('app.current_user_id', '{other}', false)",
    "PREPARE failfast_3 AS SELECT set_config('app.current_user_id', '{other}', false)",
    "DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; EXECUTE 'PREPARE failfast_4 AS SELECT 1'; END $$",
    "DEALLOCATE ALL",
    "DECLARE kept CURSOR WITH HOLD FOR SELECT user_id FROM contacts",
    "LISTEN kept",
    "SET ROLE crm_user",
    "SET client_encoding = LATIN1",
    "SELECT nextval('no_such_sequence')",
    "SELECT 1/0",
]


@pytest.mark.parametrize("seed", range(4))
def test_whatever_a_transaction_leaves_the_next_one_is_its_users_alone(
    engine: Engine, db: PostgresClient, users: list[UUID], seed: int
) -> None:
    """Transactions that spoil the session, first or later, beside calls, blocks and each other."""
    dice = random.Random(seed)  # noqa: S311 - a schedule
    isolation = text(
        "SELECT current_setting('transaction_isolation') || current_setting('search_path')"
        " || current_setting('role') || (SELECT count(*) FROM pg_listening_channels())"
        " || (SELECT count(*) FROM pg_cursors WHERE name = 'kept')"
    )
    clean = "read committed" + '"$user", public' + "none00"

    def look(user: UUID) -> None:
        with Session(engine, info=whose(user)) as session:
            assert session.scalars(MINE).all() == [user]
        with Session(engine, info=whose(user)) as session:
            assert session.scalar(isolation) == clean
            session.execute(insert(Contact).values(user_id=user, name="more"))
            session.commit()

    def call(user: UUID) -> None:
        [row] = db.execute("SELECT DISTINCT user_id FROM contacts", user_id=user)
        assert row == {"user_id": user}

    def block(user: UUID) -> None:
        with db.connection(user) as conn:
            rows = conn.execute("SELECT DISTINCT user_id FROM contacts").fetchall()
        assert rows == [{"user_id": user}]

    def spoil(user: UUID) -> None:
        other = dice.choice([one for one in users if one != user])
        with suppress(DBAPIError, ClientError), Session(engine, info=whose(user)) as session:
            if dice.random() < 0.5:
                session.scalars(MINE).all()
            for _ in range(dice.randint(1, 2)):
                session.execute(text(dice.choice(SPOILS).format(other=other)))
            (session.commit if dice.random() < 0.7 else session.rollback)()

    steps: list[Callable[[UUID], None]] = [look, look, call, block, spoil, spoil]
    for _ in range(120):
        dice.choice(steps)(dice.choice(users))
    assert db.stats()["in_use"] == 0

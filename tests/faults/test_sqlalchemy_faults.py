"""Restarts, kills and forks cost an engine what they cost its client."""

from __future__ import annotations

import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from psycopg import sql
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from clients.errors import PostgresConnectionError, PostgresError
from clients.sqlalchemy_adapter import create_engine
from tests.postgres_faults import USER, kill_sessions, superuser, times_applied
from tests.sqlalchemy_models import note_model

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tests.identity_examples import NewClientOf
    from tests.pgbouncer_server import PgBouncerServer
    from tests.postgres_faults import NewClient
    from utils._stack.postgres import PostgresServer

_INSERT = text("INSERT INTO ledger (token, user_id) VALUES (:token, :user)")
_INFO: dict[Any, Any] = {"identity": {"user_id": USER}}


def ten_transactions_succeed(engine: Engine, server: PostgresServer, session: Session) -> None:
    """Write in new sessions and in one that is older than the fault, each token once."""
    for turn in range(10):
        token = uuid4()
        with Session(engine, info=_INFO) as new:
            chosen = session if turn % 2 else new
            chosen.execute(_INSERT, {"token": token, "user": USER})
            chosen.commit()
        assert times_applied(server, token) == 1


@pytest.mark.parametrize("fault", ["restart", "kill"])
def test_a_fault_between_transactions_costs_no_failed_call(
    server: PostgresServer, new_client: NewClient, fault: str
) -> None:
    """Idle sessions that a restart or pg_terminate_backend ended are replaced unseen."""
    client = new_client(pool_size=3, min_size=3)
    engine = create_engine(client)
    with Session(engine, info=_INFO) as session:
        session.execute(text("SELECT 1"))
        session.commit()
        if fault == "restart":
            server.restart()
        else:
            with superuser(server) as conn:
                assert kill_sessions(conn) == 3
        ten_transactions_succeed(engine, server, session)
    assert client.stats()["stale"] == 3


def test_a_kill_inside_a_transaction_fails_that_one_alone(
    server: PostgresServer, new_client: NewClient
) -> None:
    """The statement and the commit say so, nothing is committed, and the session goes on."""
    engine = create_engine(new_client(pool_size=1))
    token = uuid4()
    with Session(engine, info=_INFO) as session:
        session.execute(_INSERT, {"token": token, "user": USER})
        with superuser(server) as conn:
            kill_sessions(conn)
        with pytest.raises(OperationalError):
            session.execute(text("SELECT 1"))
        with pytest.raises(PostgresConnectionError):
            session.commit()
        session.rollback()
        assert times_applied(server, token) == 0
        ten_transactions_succeed(engine, server, session)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_fork_inside_a_transaction_leaves_it_to_the_parent(
    server: PostgresServer, new_client: NewClient
) -> None:
    """The child's use of the parent's session raises, a new one works, the parent commits."""
    engine = create_engine(new_client(pool_size=2))
    mine, theirs = uuid4(), uuid4()
    reader, writer = os.pipe()
    with Session(engine, info=_INFO) as session:
        session.execute(_INSERT, {"token": mine, "user": USER})
        child = os.fork()
        if child == 0:
            try:
                try:
                    session.execute(text("SELECT 1"))
                except PostgresError as error:
                    os.write(writer, str(error).encode())
                with Session(engine, info=_INFO) as own:
                    own.execute(_INSERT, {"token": theirs, "user": USER})
                    own.commit()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        session.commit()
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert b"belongs to the parent process" in pipe.read()
    assert (times_applied(server, mine), times_applied(server, theirs)) == (1, 1)


def test_a_rotation_costs_no_transaction_and_one_question(
    server: PostgresServer, new_client: NewClient
) -> None:
    """Sessions old and new follow a password that was changed, as the client's calls do."""
    stored = {"cached": "secret", "actual": "secret"}
    asked_afresh = []

    def url(*, use_cache: bool = True) -> str:
        if not use_cache:
            asked_afresh.append(1)
            stored["cached"] = stored["actual"]
        return server.url("crm_user", stored["cached"])

    def rotate(password: str) -> None:
        change = sql.SQL("ALTER ROLE crm_user PASSWORD {}").format(sql.Literal(password))
        with superuser(server) as conn:
            conn.execute(change)
            stored["actual"] = password
            kill_sessions(conn)

    client = new_client(url, pool_size=3, min_size=3)
    engine = create_engine(client)
    try:
        with Session(engine, info=_INFO) as session:
            session.execute(text("SELECT 1"))
            session.commit()
            for turn in range(2):
                rotate(secrets.token_urlsafe(12))
                ten_transactions_succeed(engine, server, session)
                assert len(asked_afresh) == turn + 1
    finally:
        rotate("secret")


@pytest.mark.pgbouncer
def test_sessions_share_one_connection_behind_a_pooler(
    client_of: NewClientOf, pgbouncer: PgBouncerServer
) -> None:
    """Identities in threads take turns on one server connection, and read their own notes alone."""
    example = client_of.example
    client = client_of(pgbouncer.url(example.login, example.dbname), pool_size=4, pool_timeout=20.0)
    assert client.behind_pooler is True
    engine, model = create_engine(client), note_model(example)
    columns = [getattr(model, name) for name in example.columns]

    def work(number: int) -> None:
        me = example.identities[number % len(example.identities)]
        with Session(engine, info={"identity": me}) as session:
            for turn in range(15):
                assert set(map(tuple, session.execute(select(*columns)))) == {example.values(me)}
                if turn % 3 == 0:
                    session.execute(text("SET search_path = pg_catalog"))
                if turn % 3 == 1:
                    session.rollback()
                else:
                    session.commit()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(8)))
    client.close()

"""Restarts, kills and forks cost an engine what they cost its client."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from clients.errors import PostgresConnectionError, PostgresError
from clients.sqlalchemy_adapter import create_engine
from tests.postgres_faults import USER, kill_sessions, superuser, times_applied

if TYPE_CHECKING:
    from sqlalchemy import Engine

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

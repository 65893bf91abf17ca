"""One ORM query under an identity, beside the ``begin`` listener that everybody writes first."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
import sqlalchemy
from sqlalchemy import select
from sqlalchemy.orm import Session

from clients.identity import user_context
from clients.postgres_client import PostgresClient
from clients.sqlalchemy_adapter import create_engine
from tests.benchmarks._board import Row, compare
from tests.benchmarks._delayed_link import DelayedLink
from tests.benchmarks._pairs import take_turns
from tests.benchmarks._wire import trips_of
from tests.fault_proxy import FaultProxy
from tests.sqlalchemy_models import Contact

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from tests.benchmarks._board import Board
    from tests.benchmarks._pairs import Way
    from utils._stack.postgres import PostgresServer

pytestmark = pytest.mark.bench

OURS, LISTENER = "create_engine(postgres)", "SQLAlchemy 2, set_config on begin"
USER = UUID("00000000-0000-4000-8000-0000000b0b0b")
_QUERY = select(Contact).where(Contact.user_id == USER).limit(5)


@contextmanager
def ways_through(server: PostgresServer, port: int) -> Iterator[dict[str, Way]]:
    """Open both engines, and see that they return the same rows."""
    url = server.url("crm_user", "secret").replace(f":{server.port}/", f":{port}/")
    with ExitStack() as opened:
        client = opened.enter_context(PostgresClient(url, 1, min_size=1))
        theirs = sqlalchemy.create_engine(
            url.replace("postgresql://", "postgresql+psycopg://"), pool_size=1, max_overflow=0
        )
        opened.callback(theirs.dispose)

        @sqlalchemy.event.listens_for(theirs, "begin")
        def set_user(connection: sqlalchemy.Connection) -> None:
            connection.exec_driver_sql(
                "SELECT set_config('app.current_user_id', %s, true)", (str(USER),)
            )

        def way(engine: Engine) -> Way:
            def call() -> list[str]:
                with user_context(USER), Session(engine) as session, session.begin():
                    return [contact.name for contact in session.scalars(_QUERY)]

            return call

        ways = {OURS: way(create_engine(client)), LISTENER: way(theirs)}
        rows = ways[LISTENER]()
        assert len(rows) == 5  # type: ignore[arg-type]  # see above
        assert ways[OURS]() == rows
        yield ways


def test_an_orm_query_under_an_identity(fault_server: PostgresServer, board: Board) -> None:
    """BEGIN, identity and query in one round trip, COMMIT in the other."""
    with PostgresClient(fault_server.url("crm_user", "secret"), 1) as client:
        client.execute_many(
            "INSERT INTO contacts (user_id, name) VALUES (%s, %s)", [(USER, "name")] * 5, USER
        )
    with FaultProxy(fault_server.port) as proxy, ways_through(fault_server, proxy.port) as ways:
        trips = trips_of(ways, proxy)
    with (
        DelayedLink(fault_server.port, 0.001) as link,
        ways_through(fault_server, link.port) as ways,
    ):
        times = take_turns(ways, rounds=41, calls=10)
    rows = compare(
        "SQLAlchemy",
        "one ORM query, 1 ms link",
        times,
        OURS,
        trips=trips,
        promises={LISTENER: "orm"},
    )
    count = Row(
        area="SQLAlchemy",
        what="one ORM query",
        ours=trips[OURS],
        against=LISTENER,
        theirs=trips[LISTENER],
        unit="trips",
        promise="orm trips",
    )
    assert board.add(*rows, count) == []

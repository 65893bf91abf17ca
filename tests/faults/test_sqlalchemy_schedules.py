"""Random schedules of ORM sessions: identities, threads, errors, kept handles and kills."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from psycopg import OperationalError
from sqlalchemy.exc import DBAPIError, ResourceClosedError

from clients.errors import PostgresConnectionError
from clients.sqlalchemy_adapter import create_engine
from tests.postgres_faults import all_places_can_be_used
from tests.postgres_schedules import CLEAN, World, probe
from tests.sqlalchemy_models import note_model
from tests.sqlalchemy_schedules import SESSION_OPERATIONS, SessionTurn

if TYPE_CHECKING:
    from typing import Any

    from sqlalchemy import Engine

    from tests.identity_examples import NewClientOf

THREADS, POOL_SIZE, ROUND = 3, 2, 100


# More than 20,000 operations on the three schemas together.
@pytest.mark.parametrize(
    "wanted", [100, pytest.param(7_000, marks=pytest.mark.slow)], ids=["a few", "many"]
)
def test_no_schedule_of_sessions_shows_a_foreign_row(client_of: NewClientOf, wanted: int) -> None:
    """Whoever spoils, swallows, goes on and dies: no session reads or writes another's row.

    Users of one tenant and tenants of one user are strangers to each other as well.
    """
    client = client_of(pool_size=POOL_SIZE, pool_timeout=20.0)
    example, notes = client_of.example, client_of.superuser()
    world = World(client, example, notes)
    engine, model = create_engine(client), note_model(example)
    strangers = f"SELECT count(*) FROM notes WHERE {example.owner} <> writer"
    operations = losses = 0
    while operations < wanted:
        with ThreadPoolExecutor(THREADS) as threads:
            seeds = range(operations, operations + THREADS)
            parts = [threads.submit(_play, world, engine, model, seed) for seed in seeds]
            losses += sum(part.result() for part in parts)
        operations += THREADS * ROUND
        assert notes.execute(strangers.encode()).fetchone() == (0,)
        example.fill(notes)
    assert losses <= world.kills, "an operation failed that no kill excuses"
    all_places_can_be_used(client, **example.given(example.identities[0]))


def _play(world: World, engine: Engine, model: Any, seed: int) -> int:
    """Do one thread's operations, each followed by a probe without a user; count the lost ones."""
    chance, losses = random.Random(seed), 0  # noqa: S311 - no secret
    for number in range(ROUND):
        me, other = chance.sample(world.example.identities, 2)
        operation = chance.choice(SESSION_OPERATIONS)
        try:
            operation(SessionTurn(world, engine, model, me, other, chance.randrange(6)))
            if number % 4 == 0:
                [seen] = world.client.execute_admin(probe(world.example))
                del seen["pid"]
                assert seen == CLEAN, operation.__name__
        except (DBAPIError, ResourceClosedError, PostgresConnectionError, OperationalError):
            losses += 1  # the last one comes from a raw cursor
    return losses

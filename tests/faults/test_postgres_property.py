"""Random schedules of users, threads, errors, session settings, kept handles and kills."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from clients.errors import PostgresConnectionError
from tests.identity_examples import USERS
from tests.postgres_faults import all_places_can_be_used
from tests.postgres_schedules import CLEAN, LOCKS, OPERATIONS, Turn, World, probe

if TYPE_CHECKING:
    from tests.identity_examples import Example, NewClientOf

WANTED = 20_000
A_FEW = 300
THREADS, POOL_SIZE = 3, 2
_PID = "SELECT pg_backend_pid() AS pid"
Superuser: TypeAlias = "psycopg.Connection[tuple[Any, ...]]"

# One number is one operation: which, by whom, against whom, and in which variant.
_IDENTITIES = len(USERS.identities)
_turns = st.integers(0, len(OPERATIONS) * _IDENTITIES * 3 * 12 - 1)
_schedules = st.lists(
    st.lists(_turns, min_size=100, max_size=120), min_size=THREADS, max_size=THREADS
)


@dataclass
class Tally:
    """What all schedules together came to."""

    operations: int = 0
    looks: int = 0
    probes_on_the_same_session: int = 0
    losses: int = 0


@pytest.mark.parametrize(
    "wanted", [A_FEW, pytest.param(WANTED, marks=pytest.mark.slow)], ids=["a few", "many"]
)
def test_no_schedule_leaks_a_row_a_setting_or_a_place(
    example: Example, client_of: NewClientOf, wanted: int
) -> None:
    """In 20,000 random operations no foreign row is read or written, and nothing stays behind.

    Users of one tenant and tenants of one user are strangers to each other as well.
    """
    client = client_of(pool_size=POOL_SIZE, pool_timeout=20.0)
    notes = client_of.superuser()
    world = World(client, example, notes)
    tally = Tally()

    # Threads make no two runs alike: a smaller schedule would prove nothing, so none is sought.
    @settings(
        max_examples=wanted // (THREADS * 100) + 1,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(_schedules)
    def run(schedule: list[list[int]]) -> None:
        losses = tally.losses
        with ThreadPoolExecutor(THREADS) as threads:
            for part in threads.map(lambda turns: play(world, turns), schedule):
                tally.operations += part.operations
                tally.losses += part.losses
                tally.looks += part.looks
                tally.probes_on_the_same_session += part.probes_on_the_same_session
        only_own_rows_were_written(notes, world, tally.losses - losses)
        all_places_can_be_used(client, **example.given(example.identities[0]))
        assert client.stats()["size"] <= POOL_SIZE

    run()
    assert tally.operations >= wanted
    # Two sessions for three threads: most calls in a row get the same one.
    assert tally.probes_on_the_same_session > tally.looks / 4
    assert tally.losses <= world.kills, "a call failed that no kill excuses"


def only_own_rows_were_written(notes: Superuser, world: World, losses: int) -> None:
    """Compare the table with what the threads wrote, and empty it for the next schedule."""
    strangers = f"SELECT count(*) FROM notes WHERE {world.example.owner} <> writer"
    assert notes.execute(strangers.encode()).fetchone() == (0,)
    # A write whose answer a kill took may be there or not; all others are there once.
    row = notes.execute("SELECT count(*) FROM notes").fetchone()
    assert row is not None
    surplus = int(row[0]) - world.written - _IDENTITIES
    assert 0 <= surplus <= 3 * losses
    world.written = 0
    world.example.fill(notes)


def play(world: World, numbers: list[int]) -> Tally:
    """Do one thread's operations, each followed by a probe without a user."""
    tally = Tally()
    for number in numbers:
        rest, which = divmod(number, len(OPERATIONS))
        rest, mine = divmod(rest, _IDENTITIES)
        variant, step = divmod(rest, 3)
        identities = world.example.identities
        me, other = identities[mine], identities[(mine + step + 1) % _IDENTITIES]
        tally.operations += 1
        try:
            OPERATIONS[which](Turn(world, me, other, variant))
            pid = world.client.execute_admin(_PID)[0]["pid"] if variant < 3 else None
            [seen] = world.client.execute_admin(probe(world.example))
            if variant == 0:
                assert world.client.execute_admin(LOCKS) == []
        except (PostgresConnectionError, psycopg.OperationalError):
            tally.losses += 1
            continue
        tally.looks += pid is not None
        tally.probes_on_the_same_session += seen.pop("pid") == pid
        assert seen == CLEAN, (OPERATIONS[which].__name__, seen)
    return tally

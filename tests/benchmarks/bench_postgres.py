"""What a query costs under row-level security, beside what a user would pick instead.

One run has all ways on one server: on loopback at 1, 8 and 32 threads, and over links that take
1 and 10 ms for a round trip.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from clients.identity import RlsSetting
from clients.postgres_client import PostgresClient
from tests.benchmarks._board import Row, compare
from tests.benchmarks._delayed_link import DelayedLink
from tests.benchmarks._one_processor import one_processor
from tests.benchmarks._pairs import Crew, Times, take_turns
from tests.benchmarks._postgres_ways import (
    BARE,
    BLOCK,
    EXECUTE,
    FIVE_TRIPS,
    QUERY,
    USER,
    open_ways,
)
from tests.benchmarks._wire import trips_of
from tests.fault_proxy import FaultProxy
from tests.postgres_faults import superuser
from tests.signed_databases import make_signed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks._board import Board
    from tests.benchmarks._pairs import Way
    from utils._stack.postgres import PostgresServer

pytestmark = pytest.mark.bench

_THREADS = (1, 8, 32)
#: The round trip of each link in milliseconds; 0 is loopback alone.
_LINKS = (0, 1, 10)


@pytest.fixture(scope="module")
def filled(fault_server: PostgresServer, board: Board) -> PostgresServer:
    """A server on which our user has five of 20,005 contacts."""
    rows = "INSERT INTO contacts (user_id, name) SELECT {}, 'name' FROM generate_series(1, {})"
    with superuser(fault_server) as conn:
        conn.execute(rows.format("gen_random_uuid()", 20_000).encode())
        conn.execute(rows.format(f"'{USER}'", 5).encode())
        conn.execute("ANALYZE contacts")
        board.versions["PostgreSQL"] = str(conn.info.parameter_status("server_version"))
    return fault_server


@contextmanager
def ways_through(server: PostgresServer, port: int) -> Iterator[dict[str, Way]]:
    """Open every way, and see that all of them return the same rows."""

    def url(role: str) -> str:
        return server.url(role, "secret").replace(f":{server.port}/", f":{port}/")

    with ExitStack() as opened:
        ways = open_ways(url("crm_user"), url("crm_admin"), opened)
        rows = ways[BARE]()
        assert len(rows) == 5
        for name, way in ways.items():
            assert way() == rows, name
        yield dict(ways)


@pytest.fixture(scope="module")
def trips(filled: PostgresServer) -> dict[str, float]:
    """The round trips of each way."""
    with FaultProxy(filled.port) as proxy, ways_through(filled, proxy.port) as ways:
        return trips_of(ways, proxy)


@contextmanager
def link(server: PostgresServer, milliseconds: int) -> Iterator[int]:
    """Give the port of a link to the server."""
    if not milliseconds:
        yield server.port
        return
    with DelayedLink(server.port, milliseconds / 1000) as delayed:
        yield delayed.port


def test_execute_is_one_round_trip(trips: dict[str, float], board: Board) -> None:
    """Context, statement and commit travel together."""
    row = Row(
        area="PostgreSQL",
        what=EXECUTE,
        ours=trips[EXECUTE],
        against=FIVE_TRIPS,
        theirs=trips[FIVE_TRIPS],
        unit="trips",
        promise="trips",
    )
    assert board.add(row) == []


@pytest.mark.parametrize("threads", _THREADS)
@pytest.mark.parametrize("milliseconds", _LINKS, ids=[f"{one} ms" for one in _LINKS])
def test_execute_against_all_others(
    filled: PostgresServer, trips: dict[str, float], board: Board, milliseconds: int, threads: int
) -> None:
    """One trip with all protection, at any number of threads and over any link."""
    rounds, calls = _effort(milliseconds, threads)
    alone = not milliseconds and threads == 1
    with (
        link(filled, milliseconds) as port,
        one_processor(filled.pid) if alone else nullcontext(),
        ways_through(filled, port) as ways,
        Crew(threads) as crew,
    ):
        times = take_turns(ways, rounds=rounds, calls=calls, crew=crew)
    where = f"{milliseconds} ms link" if milliseconds else "loopback"
    at = f"{where}, {threads} thread{'s' if threads > 1 else ''}"
    promises = {FIVE_TRIPS: "five trips", BARE: "bare"} if alone else {}
    rows = compare("PostgreSQL", f"{EXECUTE}, {at}", times, EXECUTE, trips=trips, promises=promises)
    if alone:
        both = Times({name: times.seconds[name] for name in (BLOCK, FIVE_TRIPS)})
        promises = {FIVE_TRIPS: "block"}
        rows += compare("PostgreSQL", f"{BLOCK}, {at}", both, BLOCK, trips=trips, promises=promises)
    assert board.add(*rows) == []


def test_three_values_cost_what_one_costs(filled: PostgresServer, board: Board) -> None:
    """An identity of several values is a few parameters more in a statement that is sent anyway."""
    one = {"user_id": RlsSetting("app.current_user_id", UUID)}
    three = {
        **one,
        "tenant_id": RlsSetting("app.tenant_id", int),
        "region": RlsSetting("app.region", str),
    }
    url = filled.url("crm_user", "secret")
    with (
        PostgresClient(url, 1, min_size=1, identity=one) as with_one,
        PostgresClient(url, 1, min_size=1, identity=three) as with_three,
        one_processor(filled.pid),
    ):
        mine = {"user_id": USER}
        all_of_me = {**mine, "tenant_id": 7, "region": "eu"}
        ways: dict[str, Way] = {
            "execute(), three values": lambda: with_three.execute(
                QUERY, (USER,), identity=all_of_me
            ),
            "execute(), one value": lambda: with_one.execute(QUERY, (USER,), identity=mine),
        }
        times = take_turns(ways, rounds=151, calls=40)
    rows = compare(
        "PostgreSQL",
        "execute(), three values",
        times,
        "execute(), three values",
        promises={"execute(), one value": "identity"},
    )
    assert board.add(*rows) == []


def test_a_signed_identity_costs_little(filled: PostgresServer, board: Board) -> None:
    """A policy that checks a signature, beside the same policy on the same rows that does not."""
    database = make_signed(filled)
    with superuser(filled) as conn:
        conn.execute(
            "CREATE TABLE signed_contacts (LIKE contacts INCLUDING ALL);"
            "INSERT INTO signed_contacts SELECT * FROM contacts;"
            "ALTER TABLE signed_contacts ENABLE ROW LEVEL SECURITY;"
            "GRANT SELECT ON signed_contacts TO crm_user;"
            "CREATE POLICY own ON signed_contacts"
            " USING (user_id = (SELECT failfast.identity_uuid('app.current_user_id')));"
            "ANALYZE signed_contacts"
        )
    url, query = filled.url("crm_user", "secret"), QUERY.replace("contacts", "signed_contacts")
    plain, signed = "execute(), a plain identity", "execute(), a signed identity"
    with (
        PostgresClient(url, 1, min_size=1) as with_plain,
        PostgresClient(url, 1, min_size=1, identity_key=database.key) as with_signed,
        one_processor(filled.pid),
    ):
        ways: dict[str, Way] = {
            plain: lambda: with_plain.execute(QUERY, (USER,), USER),
            signed: lambda: with_signed.execute(query, (USER,), USER),
        }
        assert with_signed.execute(query, (USER,), USER) == with_plain.execute(QUERY, (USER,), USER)
        times = take_turns(ways, rounds=151, calls=40)
    rows = compare("PostgreSQL", signed, times, signed, promises={plain: "signed"})
    assert board.add(*rows) == []


def _effort(milliseconds: int, threads: int) -> tuple[int, int]:
    """Return rounds and calls that take some ten seconds in all."""
    # Many short rounds: the nearer together a pair is, the more alike is the machine that it meets.
    if not milliseconds:
        return (61, 50) if threads == 1 else (15, 320)
    if milliseconds == 1:
        return (17, 12) if threads == 1 else (9, 4 * threads)
    return (9, 4) if threads == 1 else (7, 2 * threads)


def test_protection_costs_next_to_nothing_over_a_network(
    filled: PostgresServer, trips: dict[str, float], board: Board
) -> None:
    """Where the trip is what costs, one trip with all guards costs what one without costs."""
    with link(filled, 5) as port, ways_through(filled, port) as ways:
        both = {name: ways[name] for name in (EXECUTE, BARE)}
        times = take_turns(both, rounds=45, calls=5)
    rows = compare(
        "PostgreSQL",
        f"{EXECUTE}, 5 ms link, 1 thread",
        times,
        EXECUTE,
        trips=trips,
        promises={BARE: "bare, 5 ms"},
    )
    assert board.add(*rows) == []

"""What starting costs: the import, ``build_clients()``, and the memory of idle clients."""

from __future__ import annotations

import random
import statistics
import tempfile
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import pytest

from clients import build_clients
from tests.benchmarks._bare_drivers import open_drivers
from tests.benchmarks._board import Row, compare
from tests.benchmarks._delayed_link import DelayedLink
from tests.benchmarks._in_a_process import Outcome, fresh_interpreter, run_task
from tests.benchmarks._pairs import Times, take_turns
from tests.fault_proxy import FaultProxy
from utils._stack.valkey import ValkeyServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.benchmarks._board import Board
    from tests.vault_fixtures import VaultLab
    from utils._stack.postgres import PostgresServer

pytestmark = pytest.mark.bench

_DRIVERS = "hvac, psycopg_pool, redis"
#: The package alone brings none of the drivers; its names bring all of them.
_IMPORTS = {
    "import clients": "import clients",
    "from clients import *": "from clients import *",
    _DRIVERS: f"import {_DRIVERS}",
}
_IMPORT_ROUNDS = 15

T = TypeVar("T", FaultProxy, DelayedLink)


class Stack:
    """The three servers, and what Vault says of the other two.

    Args:
        vault: Holds the secrets.
        postgres: Has the project's schema.
        valkey: The third.
    """

    def __init__(self, vault: VaultLab, postgres: PostgresServer, valkey: ValkeyServer) -> None:
        self.vault, self.postgres, self.valkey = vault, postgres, valkey
        self.token = vault.token()

    def point_to(self, postgres_port: int, valkey_port: int) -> None:
        """Let Vault name these ports."""
        database = {
            field: self.postgres.url(role, "secret").replace(
                f":{self.postgres.port}/", f":{postgres_port}/"
            )
            for field, role in (("url", "crm_user"), ("admin_url", "crm_admin"))
        }
        self.vault.write("crm/database", database)
        url = self.valkey.url.replace(f":{self.valkey.port}/", f":{valkey_port}/")
        self.vault.write("crm/valkey", {"url": url})

    def environ(self, vault_port: int | None = None) -> dict[str, str]:
        """Return the variables that lead to it."""
        port = self.vault.server.port if vault_port is None else vault_port
        return {"VAULT_ADDR": f"http://127.0.0.1:{port}", "VAULT_TOKEN": self.token}

    @contextmanager
    def behind(self, relay: Callable[[int], T]) -> Iterator[tuple[dict[str, str], list[T]]]:
        """Lead through a relay to each server for a while."""
        with ExitStack() as opened:
            ports = (self.vault.server.port, self.postgres.port, self.valkey.port)
            relays = [opened.enter_context(relay(port)) for port in ports]
            self.point_to(relays[1].port, relays[2].port)
            opened.callback(self.point_to, *ports[1:])
            yield self.environ(relays[0].port), relays


@pytest.fixture(scope="module")
def servers(vault_lab: VaultLab, own_postgres: PostgresServer) -> Iterator[Stack]:
    with ValkeyServer() as valkey:
        stack = Stack(vault_lab, own_postgres, valkey)
        stack.point_to(own_postgres.port, valkey.port)
        yield stack


def _ours(environ: dict[str, str]) -> None:
    build_clients(environ=environ).close()


def _theirs(environ: dict[str, str]) -> None:
    with ExitStack() as opened:
        open_drivers(environ["VAULT_ADDR"], environ["VAULT_TOKEN"], opened)


def test_importing_costs_what_the_drivers_cost(board: Board) -> None:
    """All that is ours adds next to nothing to the import of what it stands on."""
    times: dict[str, list[float]] = {name: [] for name in _IMPORTS}
    with tempfile.TemporaryDirectory() as compiled:
        for turn in range(_IMPORT_ROUNDS + 1):
            for name in random.sample(list(_IMPORTS), len(_IMPORTS)):
                taken = _import_seconds(_IMPORTS[name], compiled)
                if turn:  # the first one compiles
                    times[name].append(taken)
    rows = []
    for name, promise in (("import clients", "import"), ("from clients import *", "import all")):
        pair = Times({one: times[one] for one in (name, _DRIVERS)})
        rows += compare("start", name, pair, name, promises={_DRIVERS: promise})
    assert board.add(*rows) == []


def _import_seconds(statement: str, compiled: str) -> float:
    """Return the processor time of an import in a fresh interpreter.

    Without the garbage collector: after some 70,000 objects a full collection falls due, which is
    about where all of them end, and chance would say on whose side it falls.
    """
    script = (
        "import gc, time\ngc.disable()\nstarted = time.process_time()\n"
        f"{statement}\nprint(time.process_time() - started)"
    )
    return float(fresh_interpreter(["-I", "-X", f"pycache_prefix={compiled}", "-c", script]))


def test_building_all_clients(servers: Stack, board: Board) -> None:
    """The probes of all three are a few round trips more than the bare connections."""
    environ = servers.environ()
    both = {"ours": partial(_ours, environ), _DRIVERS: partial(_theirs, environ)}
    times = take_turns(both, rounds=15, calls=1, warm_up=3)
    trips, connections = {}, {}
    with servers.behind(FaultProxy) as (counted, proxies):
        for name, way in (("ours", _ours), (_DRIVERS, _theirs)):
            for proxy in proxies:
                proxy.reset_counts()
            way(counted)
            trips[name] = sum(proxy.round_trips for proxy in proxies)
            connections[name] = sum(proxy.connections for proxy in proxies)
    assert connections["ours"] == connections[_DRIVERS]
    what = f"build_clients(), {connections['ours']} connections"
    assert board.add(*compare("start", what, times, "ours", trips=trips)) == []
    for milliseconds in (1, 10):
        with servers.behind(partial(DelayedLink, round_trip=milliseconds / 1000)) as (far, _):
            both = {"ours": partial(_ours, far), _DRIVERS: partial(_theirs, far)}
            times = take_turns(both, rounds=9, calls=1, warm_up=1)
        row = compare("start", f"{what}, {milliseconds} ms link", times, "ours", trips=trips)
        assert board.add(*row) == []


def test_idle_clients_hold_little_memory(servers: Stack, board: Board) -> None:
    """What a process grows by, beside the bare drivers with as many connections."""
    found: dict[str, list[Outcome]] = {"build": [], "build drivers": []}
    for _ in range(5):
        for task in random.sample(list(found), len(found)):
            found[task].append(run_task(task, "", servers.environ()))
    ours, theirs = (statistics.median(one["kept"] for one in all_) for all_ in found.values())
    board.add(
        Row(
            area="start",
            what="memory of idle Clients",
            ours=ours,
            against=_DRIVERS,
            theirs=theirs,
            unit="B",
            ratio=ours / theirs,
        )
    )

"""What OpenTelemetry costs where nothing is recorded: absent, without a provider, sampling off.

Each state is a process of its own; several of each, for two processes alike differ by a percent.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.benchmarks._board import Row
from tests.benchmarks._one_processor import one_processor
from tests.benchmarks._pairs import Times, take_turns
from tests.benchmarks._telemetry_state import ABSENT, NO_PROVIDER, SAMPLING_OFF, TelemetryState
from utils._stack.valkey import ValkeyServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks._board import Board
    from utils._stack.postgres import PostgresServer

pytestmark = pytest.mark.bench


@pytest.fixture(scope="module")
def valkey_server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


_STATES = (ABSENT, NO_PROVIDER, SAMPLING_OFF)
_PROCESSES = 5


@pytest.mark.parametrize(("method", "calls"), [("execute", 60), ("get", 400)])
def test_a_call_that_is_not_recorded(
    fault_server: PostgresServer,
    valkey_server: ValkeyServer,
    board: Board,
    method: str,
    calls: int,
) -> None:
    """Without a provider it costs what it costs without the package; sampling off, little more."""
    seconds: dict[str, list[float]] = {state: [] for state in _STATES}
    url = fault_server.url("crm_user", "secret")
    server = fault_server if method == "execute" else valkey_server
    for _ in range(_PROCESSES):
        with ExitStack() as opened:
            opened.enter_context(one_processor(server.pid))
            states = {
                state: opened.enter_context(TelemetryState(state, url, valkey_server.url))
                for state in _STATES
            }
            ways = {state: partial(one.make, method, calls) for state, one in states.items()}
            times = take_turns(ways, rounds=21, calls=1, warm_up=3)
        for state, found in times.seconds.items():
            seconds[state] += [one / calls for one in found]
    times = Times(seconds)
    rows = [
        Row(
            area="telemetry",
            what=f"{method}(), {state}",
            ours=times.typical(state),
            against=ABSENT,
            theirs=times.typical(ABSENT),
            ratio=_ratio(times, state),
            promise=promise,
        )
        for state, promise in ((NO_PROVIDER, "no provider"), (SAMPLING_OFF, "sampling off"))
    ]
    assert board.add(*rows) == []


def _ratio(times: Times, state: str) -> float:
    # The median over the processes of the median over the rounds of each.
    pairs = list(zip(times.seconds[state], times.seconds[ABSENT], strict=True))
    size = len(pairs) // _PROCESSES
    return statistics.median(
        statistics.median(one / other for one, other in pairs[start : start + size])
        for start in range(0, len(pairs), size)
    )

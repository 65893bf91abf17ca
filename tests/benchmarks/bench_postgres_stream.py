"""What a million rows cost in memory and in time, each reader in a process of its own."""

from __future__ import annotations

import random
import statistics
from typing import TYPE_CHECKING

import pytest

from tests.benchmarks._board import Row
from tests.benchmarks._in_a_process import ROWS, Outcome, run_task

if TYPE_CHECKING:
    from tests.benchmarks._board import Board
    from utils._stack.postgres import PostgresServer

pytestmark = pytest.mark.bench

_OURS = "stream"
_OTHERS = {
    "named cursor": "psycopg, named cursor",
    "fetch all": "psycopg, fetchall()",
    "execute": "execute()",
}
_ROUNDS = 3


def test_a_stream_holds_one_batch(own_postgres: PostgresServer, board: Board) -> None:
    """``stream()`` needs a sliver of the memory that all rows at once need."""
    url = own_postgres.url("crm_user", "secret")
    found: dict[str, list[Outcome]] = {name: [] for name in (_OURS, *_OTHERS)}
    for _ in range(_ROUNDS):
        for name in random.sample(list(found), len(found)):
            found[name].append(run_task(name, url))
    seconds = {
        name: statistics.median(one["seconds"] for one in all_) for name, all_ in found.items()
    }
    memory = {name: statistics.median(one["peak"] for one in all_) for name, all_ in found.items()}
    rows = []
    for other, label in _OTHERS.items():
        paired = [
            ours["seconds"] / theirs["seconds"]
            for ours, theirs in zip(found[_OURS], found[other], strict=True)
        ]
        rows += [
            Row(
                area="PostgreSQL",
                what=f"stream(), {ROWS:,} rows, memory",
                ours=memory[_OURS],
                against=label,
                theirs=memory[other],
                unit="B",
                ratio=memory[_OURS] / memory[other],
                promise="stream" if other == "fetch all" else None,
            ),
            Row(
                area="PostgreSQL",
                what=f"stream(), {ROWS:,} rows, time",
                ours=seconds[_OURS],
                against=label,
                theirs=seconds[other],
                ratio=statistics.median(paired),
            ),
        ]
    assert board.add(*rows) == []

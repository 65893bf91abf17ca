"""A whole run of the benchmarks, made up: what reads and shows results is tested on it."""

from __future__ import annotations

from tests.benchmarks._board import Board, Row
from tests.benchmarks._comparisons import COMPARISONS
from tests.benchmarks._promises import PROMISES

__all__ = ["whole_run"]


def whole_run(*, broken: str = "", missing: str = "") -> Board:
    """Return a board with every comparison, on which every promise is kept to its limit.

    Args:
        broken: A promise that is broken instead.
        missing: One that was not measured, or what or whom no row has.
    """
    board = Board(versions={"PostgreSQL": "18.6", "Valkey": "9.1.2", "OpenBao": "2.7.2"})
    for name, promise in PROMISES.items():
        value = promise.limit
        if name == broken:
            value = value / 2 if promise.at_least else value * 2 + 1
        if name == missing:
            continue
        of_ratio = promise.kind == "ratio"
        row = Row(
            area="a",
            what=name,
            ours=1.0 if of_ratio else value,
            against="b",
            theirs=2.0,
            ratio=value if of_ratio else None,
            promise=name,
        )
        board.add(row)
    for what, against in sorted(COMPARISONS):
        if missing not in {what, against}:
            board.add(Row(area="a", what=what, ours=1.0, against=against, theirs=2.0, ratio=0.5))
    return board

"""The board that all benchmarks write on, and what becomes of it at the end of the session."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.benchmarks._board import Board

ROOT = Path(__file__).parents[2]
_BOARD = pytest.StashKey["Board"]()


@pytest.fixture(scope="session")
def board(request: pytest.FixtureRequest) -> Board:
    """The table that is printed at the end, and written to ``bench.json`` and ``bench.md``."""
    from tests.benchmarks._board import Board  # noqa: PLC0415 - a plain test run has no use for it

    return request.config.stash.setdefault(_BOARD, Board())


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A whole run that leaves a promise or a comparison unmeasured has failed."""
    board = session.config.stash.get(_BOARD, None)
    if board is None:
        return
    if _is_whole(session.config) and board.missing() and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the table, and what was promised and not measured."""
    board = config.stash.get(_BOARD, None)
    if board is None or not board.rows:
        return
    terminalreporter.section("benchmarks")
    terminalreporter.write(board.write(ROOT))
    for row in board.rows:
        if not row.kept:
            terminalreporter.write_line(f"NOT KEPT: {' | '.join(row.cells())}", red=True)
    missing = board.missing()
    if _is_whole(config):
        for one in missing:
            terminalreporter.write_line(f"NOT MEASURED: {one}", red=True)
    elif missing:
        terminalreporter.write_line(f"a part of the benchmarks: {len(missing)} figures are missing")


def _is_whole(config: pytest.Config) -> bool:
    return not config.option.keyword and config.args == ["tests/benchmarks"]

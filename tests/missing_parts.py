"""Deselect the tests that need a part of the machine, where that part is missing."""

from __future__ import annotations

import locale
from typing import Any

import pytest

from tests.pgbouncer_server import PROGRAM

_DESELECTED = pytest.StashKey[dict[str, int]]()
#: Under this name a worker of a parallel run tells how many it deselected.
_TOLD = "deselected"


def _has_locale(name: str) -> bool:
    before = locale.setlocale(locale.LC_ALL)
    try:
        locale.setlocale(locale.LC_ALL, name)
    except locale.Error:
        return False
    locale.setlocale(locale.LC_ALL, before)
    return True


def _missing() -> dict[str, str]:
    """Return the markers whose part is missing, and what to say of it."""
    lines = {
        "pgbouncer": "the program pgbouncer is missing (apt install pgbouncer)",
        "german": "the locale de_DE.UTF-8 is missing (apt install locales-all)",
    }
    here = {"pgbouncer": PROGRAM is not None, "german": _has_locale("de_DE.UTF-8")}
    return {marker: line for marker, line in lines.items() if not here[marker]}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what needs a missing part: a skip would look like a defect."""
    counts: dict[str, int] = {}
    for marker, line in _missing().items():
        if needy := [item for item in items if item.get_closest_marker(marker)]:
            counts[line] = len(needy)
            config.hook.pytest_deselected(items=needy)
            items[:] = [item for item in items if item not in needy]
    config.stash[_DESELECTED] = counts
    if isinstance(told := getattr(config, "workeroutput", None), dict):
        told[_TOLD] = counts


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the numbers from a worker: each of them collects all tests."""
    if counts := getattr(node, "workeroutput", {}).get(_TOLD):
        node.config.stash[_DESELECTED] = counts


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say so, in one line each."""
    for line, count in config.stash.get(_DESELECTED, {}).items():
        terminalreporter.write_line(f"{count} tests deselected: {line}")

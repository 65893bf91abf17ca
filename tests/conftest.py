"""The fixtures that every folder of tests shares, by concern."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from hypothesis import settings

# Its limit of 0.2 s for an example is one on the machine: tests here limit ratios and counts.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

pytest_plugins = [
    "tests.rotating_url_world",
    "tests.stack_fixtures",
    "tests.vault_fixtures",
    "tests.vault_logins",
    "tests.people",
    "tests.postgres_faults",
    "tests.sqlalchemy_fixtures",
    "tests.identity_examples",
    "tests.pgbouncer_server",
    "tests.missing_parts",
    "tests.dagster_fixtures",
    "tests.rls_tables",
    "tests.rotation_lab",
]

_PROJECT = Path(__file__).parent / "project"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the repository itself by their folder, and give the long ones longer."""
    for item in items:
        if item.path.is_relative_to(_PROJECT):
            item.add_marker(pytest.mark.project)
        # The time-out ends a test that hangs: a long one beside others does not, after 300 s.
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(1200))


def pytest_collection_finish() -> None:
    """Let the collector pass over what is there before the first test, in every later round."""
    _freeze()


@pytest.hookimpl(trylast=True)  # what the file set up itself has gone by then
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Let it pass over what the tests of a file have left as well: modules, servers, reports."""
    if nextitem is not None and nextitem.path != item.path:
        _freeze()


def _freeze() -> None:
    # Tests that look for what was left behind collect often, and look for what they made
    # themselves. A round over all that a worker holds takes twenty times as long.
    gc.collect()
    gc.freeze()

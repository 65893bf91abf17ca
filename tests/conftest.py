"""The fixtures that every folder of tests shares, by concern."""

from __future__ import annotations

pytest_plugins = ["tests.stack_fixtures", "tests.vault_fixtures", "tests.dagster_fixtures"]

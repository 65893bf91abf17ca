"""The fixtures that every folder of tests shares, by concern."""

from __future__ import annotations

pytest_plugins = [
    "tests.credential_world",
    "tests.stack_fixtures",
    "tests.vault_fixtures",
    "tests.postgres_faults",
    "tests.pgbouncer_server",
    "tests.dagster_fixtures",
    "tests.rls_tables",
    "tests.rotation_lab",
]

"""The fixtures that every folder of tests shares, by concern."""

from __future__ import annotations

from hypothesis import settings

# Its limit of 0.2 s for an example is one on the machine: tests here limit ratios and counts.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

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

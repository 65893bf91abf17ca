"""Jobs that run in processes of their own, which load this module anew."""
# Without `from __future__ import annotations`: Dagster reads the resource from the signature.

import os

import dagster as dg

from clients.dagster_adapter import VaultSecretsResource

__all__ = ["STEPS", "failing_job", "steps_job"]

STEPS = 5


@dg.op
def read_twice(vault: VaultSecretsResource) -> int:
    """Read a secret, from Vault and from the cache."""
    assert vault.get_secret("app/db") == vault.get_secret("app/db")
    return os.getpid()


@dg.op
def read_and_fail(vault: VaultSecretsResource) -> None:
    """Read a secret, and fail."""
    vault.get_secret("app/db")
    raise RuntimeError("this step fails after its login")


def steps_job() -> dg.JobDefinition:
    """Return a job whose five steps each log in."""

    @dg.job(resource_defs={"vault": VaultSecretsResource.from_env()})
    def steps() -> None:
        for number in range(STEPS):
            read_twice.alias(f"read_{number}")()

    return steps


def failing_job() -> dg.JobDefinition:
    """Return a job whose step logs in and then fails."""

    @dg.job(resource_defs={"vault": VaultSecretsResource.from_env()})
    def fails() -> None:
        read_and_fail()

    return fails

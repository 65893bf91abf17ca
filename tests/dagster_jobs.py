"""Jobs that run in processes of their own, which load this module anew, and their steps."""
# Without `from __future__ import annotations`: Dagster reads the resource from the signature.

import os
import time

import dagster as dg

from clients.dagster_adapter import VaultSecretsResource

__all__ = ["STEPS", "failing_job", "shows_itself", "steps_job", "waiting_job"]

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


@dg.op(required_resource_keys={"vault"})
def shows_itself(context: dg.OpExecutionContext) -> None:
    """Do with the resource what an author does who looks for a mistake."""
    vault = context.resources.vault
    shown = f"{vault!r} {vault}"
    if vault.health_check():
        shown += f" {vault.client!r}"
    try:
        vault.secret_id = f"{vault.secret_id}"
    except dg.DagsterInvalidInvocationError:
        context.log.exception("the resource is frozen")
    print(shown)  # noqa: T201 - Dagster keeps a step's output, too
    context.log.info(shown)
    context.add_output_metadata({"vault": shown})


@dg.op
def read_and_wait(vault: VaultSecretsResource) -> None:
    """Read a secret, and wait to be ended."""
    vault.get_secret("app/db")
    for _ in range(600):  # short sleeps, since Dagster turns a signal into an exception
        time.sleep(0.1)


def steps_job() -> dg.JobDefinition:
    """Return a job whose five steps each log in."""

    @dg.job(resource_defs={"vault": VaultSecretsResource.from_env()})
    def steps() -> None:
        for number in range(STEPS):
            read_twice.alias(f"read_{number}")()

    return steps


def waiting_job() -> dg.JobDefinition:
    """Return a job whose step logs in and then waits for a minute."""

    @dg.job(resource_defs={"vault": VaultSecretsResource.from_env()})
    def waits() -> None:
        read_and_wait()

    return waits


def failing_job() -> dg.JobDefinition:
    """Return a job whose step logs in and then fails."""

    @dg.job(resource_defs={"vault": VaultSecretsResource.from_env()})
    def fails() -> None:
        read_and_fail()

    return fails

"""What Dagster stores and shows: no secret that was given as a variable."""

from __future__ import annotations

import logging
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster._serdes import serialize_value

from clients.dagster_adapter import VaultSecretsResource, vault_secrets_resource
from tests.dagster_entry_points import VARIABLES, url_by_key
from tests.dagster_jobs import shows_itself

if TYPE_CHECKING:
    from pathlib import Path

    from tests.vault_fixtures import Role

CANARY = "canary-4b7e-9d21"


def job(resource: dg.ResourceDefinition | VaultSecretsResource) -> dg.JobDefinition:
    @dg.job(resource_defs={"vault": resource})
    def reads() -> None:
        shows_itself()
        url_by_key()

    return reads


def stored(
    job: dg.JobDefinition, instance: dg.DagsterInstance, run_config: dict[str, Any] | None = None
) -> tuple[bool, str]:
    """Run *job*; return whether it succeeded, and all that Dagster keeps and serves of it."""
    repository = dg.Definitions(jobs=[job]).get_repository_def()
    done = job.execute_in_process(run_config, instance=instance, raise_on_error=False)
    run = instance.get_run_by_id(done.run_id)
    assert run is not None
    assert run.job_snapshot_id is not None
    assert run.execution_plan_snapshot_id is not None
    kept: list[Any] = [
        RepositorySnap.from_def(repository),
        run,
        instance.get_job_snapshot(run.job_snapshot_id),
        instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id),
        *instance.all_logs(done.run_id),
    ]
    return done.success, "\n".join(serialize_value(one) for one in kept)


def files_with(text: str, folder: Path) -> list[str]:
    return [
        path.name
        for path in folder.rglob("*")
        if path.is_file() and text.encode() in path.read_bytes()
    ]


@pytest.mark.parametrize(
    "kind",
    ["resource", *(pytest.param(one, marks=pytest.mark.slow) for one in ("legacy", "run config"))],
)
def test_a_secret_given_as_a_variable_is_stored_nowhere(
    kind: str,
    role: Role,
    instance: dg.DagsterInstance,
    dagster_home: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Not in event log, run record, snapshots, files, output or logs, accepted or refused."""
    caplog.set_level(logging.DEBUG)
    run_config = None
    if kind == "resource":
        reads = job(VaultSecretsResource.from_env())
    elif kind == "legacy":
        reads = job(vault_secrets_resource.configured(VARIABLES))
    else:
        reads = job(VaultSecretsResource.configure_at_launch().get_resource_definition())
        run_config = {"resources": {"vault": {"config": VARIABLES}}}

    for secret in (role.secret_id, CANARY):
        monkeypatch.setenv("VAULT_SECRET_ID", secret)
        success, kept = copy_context().run(stored, reads, instance, run_config)

        assert success is (secret != CANARY)
        assert "the login was refused" in kept or success
        assert "VaultSecretsResource(vault_addr=" in kept
        assert secret not in kept
        assert files_with(secret, dagster_home) == []
        assert secret not in caplog.text + "".join(capfd.readouterr())


def test_a_literal_secret_is_stored(
    role: Role, instance: dg.DagsterInstance, dagster_home: Path
) -> None:
    """Dagster keeps literals in its snapshots: the reason why the README says EnvVar."""
    literal = VaultSecretsResource(vault_addr="http://127.0.0.1:1", secret_id=CANARY)

    success, kept = copy_context().run(stored, job(literal), instance)

    assert not success
    assert CANARY in kept

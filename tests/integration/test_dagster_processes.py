"""Jobs whose steps run in processes of their own: one login each, and no token stays behind."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

from clients._dagster.registry import close_shared_clients
from clients.dagster_adapter import VaultSecretsResource
from tests.dagster_jobs import STEPS, failing_job, steps_job, waiting_job

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.http_fault_proxy import HttpFaultProxy
    from tests.vault_fixtures import Role, VaultLab

ROOT = Path(__file__).parents[2]
LOGIN, REVOKE = "auth/approle/login", "auth/token/revoke-self"


def run(job: Callable[[], dg.JobDefinition], instance: dg.DagsterInstance, method: str) -> bool:
    multiprocess: dict[str, Any] = {"start_method": {method: {}}}
    config = {"execution": {"config": {"multiprocess": multiprocess}}}
    with dg.execute_job(dg.reconstructable(job), instance, run_config=config) as done:
        return done.success


@pytest.mark.slow
def test_a_job_of_many_processes_leaves_no_token_behind(
    instance: dg.DagsterInstance, role: Role, vault_lab: VaultLab, vault_proxy: HttpFaultProxy
) -> None:
    """Five steps are five processes with one login each, and every token is given back."""
    before = vault_lab.tokens_of(role)

    assert run(steps_job, instance, "spawn")

    assert vault_proxy.count(LOGIN) == STEPS
    assert vault_proxy.count(REVOKE) == STEPS
    assert vault_proxy.count("secret/data/app/db") == STEPS
    assert vault_lab.tokens_of(role) == before == []


@pytest.mark.slow
def test_a_failing_step_gives_its_token_back(
    instance: dg.DagsterInstance, role: Role, vault_lab: VaultLab, vault_proxy: HttpFaultProxy
) -> None:
    """The token does not outlive a process whose step raised, nor one that a fork server made."""
    assert not run(failing_job, instance, "forkserver")

    assert vault_proxy.count("secret/data/app/db") == 1
    assert vault_proxy.count(LOGIN) == 1
    assert vault_lab.tokens_of(role) == []


@pytest.mark.slow
def test_a_run_that_is_ended_gives_its_token_back(
    dagster_home: Path, role: Role, vault_lab: VaultLab, vault_proxy: HttpFaultProxy
) -> None:
    """A platform that stops a run with SIGTERM leaves no token of its steps behind."""
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", "tests.dagster_jobs"]
    with subprocess.Popen(
        [*command, "-a", waiting_job.__name__],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as running:
        while vault_proxy.count("secret/data/app/db") == 0 and running.poll() is None:
            time.sleep(0.05)
        held = vault_lab.tokens_of(role)
        running.terminate()

    assert len(held) == 1
    assert running.returncode != 0
    assert (vault_proxy.count(LOGIN), vault_proxy.count(REVOKE)) == (1, 1)
    assert vault_lab.tokens_of(role) == []


def test_a_token_that_was_given_is_never_revoked(
    role: Role, vault_lab: VaultLab, vault_proxy: HttpFaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's own token works after the end as before."""
    monkeypatch.setenv("VAULT_TOKEN", vault_lab.token())
    resource = VaultSecretsResource.from_env()
    resource.get_secret("app/db")

    close_shared_clients()

    assert vault_proxy.count(LOGIN) + vault_proxy.count("revoke") == 0
    assert resource.health_check() is True

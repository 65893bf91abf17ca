"""The example code location works: in process, in processes of its own, and for Dagster's check."""

from __future__ import annotations

import json
import subprocess
import sys
from contextvars import copy_context
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import dagster as dg
import pytest

from clients import ValkeyClient
from clients.dagster_adapter import ClientsResource, FakeVaultSecretsResource, VaultSecretsResource
from tests.examples import contacts_location
from tests.examples.contacts_location import contact_count, missing_figures, vault_answers
from utils._stack.settings import child_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from utils.local_stack import StackEndpoints

ROOT = Path(__file__).parents[2]


@pytest.fixture
def resources(
    stack: StackEndpoints, dagster_home: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    for name, value in stack.environment().items():
        monkeypatch.setenv(name, value)
    return {"clients": ClientsResource.from_env(), "vault": VaultSecretsResource.from_env()}


@pytest.fixture
def user(resources: dict[str, Any]) -> UUID:
    """A user with three contacts, beside another one with four."""
    users = [uuid4(), uuid4()]
    for count, one in enumerate(users, start=3):
        rows = [(one, f"Contact {n}") for n in range(count)]
        resources["clients"].postgres.execute_many(
            "INSERT INTO contacts (user_id, name) VALUES (%s, %s)", rows, user_id=one
        )
    return users[0]


@pytest.fixture
def valkey(stack: StackEndpoints) -> Iterator[ValkeyClient]:
    with ValkeyClient(stack.valkey_url) as client:
        yield client


def config_for(user: object) -> dict[str, Any]:
    return {"ops": {"contact_count": {"config": {"user_id": str(user)}}}}


def test_it_counts_one_users_contacts(
    resources: dict[str, Any], user: UUID, valkey: ValkeyClient, instance: dg.DagsterInstance
) -> None:
    """Row-level security hides the other user's, Valkey keeps the figure, the check passes."""
    done = copy_context().run(
        dg.materialize,
        [contact_count, vault_answers],
        resources=resources,
        run_config=config_for(user),
        instance=instance,
    )

    assert done.success
    assert [one.passed for one in done.get_asset_check_evaluations()] == [True]
    assert valkey.get(f"contacts:{user}") == "3"
    assert 3500 < valkey.ttl(f"contacts:{user}") <= 3600


@pytest.mark.slow
def test_it_runs_in_processes_of_its_own(
    stack: StackEndpoints,
    resources: dict[str, Any],
    user: UUID,
    valkey: ValkeyClient,
    instance: dg.DagsterInstance,
    tmp_path: Path,
) -> None:
    """Dagster's own command runs it as it stands, one process for each step."""
    config = tmp_path / "config.json"  # JSON is YAML, too
    config.write_text(json.dumps(config_for(user)))
    command = [sys.executable, "-m", "dagster", "job", "execute"]
    job = ["-m", contacts_location.__name__, "-j", "__ASSET_JOB"]
    home = {"DAGSTER_HOME": instance.root_directory, "DAGSTER_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [*command, *job, "--config", str(config)],
        cwd=ROOT,
        env=child_environment(stack.environment() | home),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    (run,) = instance.get_runs()
    logs = instance.all_logs(run.run_id)
    assert run.is_success
    assert len({entry.step_key for entry in logs if entry.step_key}) == 2
    assert "multiprocess" in "".join(entry.message for entry in logs)
    assert valkey.get(f"contacts:{user}") == "3"
    assert stack.vault_token not in done.stdout + done.stderr


def test_its_sensor_asks_for_missing_figures(
    resources: dict[str, Any], user: UUID, valkey: ValkeyClient
) -> None:
    """A user without a figure is counted, and one who has it is not."""
    database = resources["clients"].postgres
    database.execute_admin(
        "INSERT INTO users (id, email) VALUES (%s, %s)", (user, f"{user}@example.com")
    )

    def asks_for_the_user() -> bool:
        asked: Any = missing_figures(dg.build_sensor_context(), clients=resources["clients"])
        return any(request.run_config["ops"] == config_for(user)["ops"] for request in asked)

    try:
        assert asks_for_the_user()
        valkey.set(f"contacts:{user}", "3", expire_seconds=60)
        assert not asks_for_the_user()
    finally:
        database.execute_admin("DELETE FROM users WHERE id = %s", (user,))


def test_its_check_says_whether_vault_answers() -> None:
    """The asset check passes with Vault and fails without."""
    checks: Any = [
        vault_answers(vault=FakeVaultSecretsResource(healthy=healthy)) for healthy in (True, False)
    ]

    assert [check.passed for check in checks] == [True, False]


@pytest.mark.slow
def test_dagster_accepts_the_code_location(dagster_home: Path) -> None:
    """``dagster definitions validate`` needs no server and no variable."""
    command = [sys.executable, "-m", "dagster", "definitions", "validate"]
    done = subprocess.run(
        [*command, "-f", str(ROOT / "tests/examples/contacts_location.py")],
        cwd=ROOT,
        env=child_environment({}),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "All code locations passed validation" in done.stderr + done.stdout

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
from tests.examples.tenants_location import clients_in_a_pod, order_count
from tests.identity_examples import TENANTS
from utils._stack.settings import child_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.identity_examples import NewClientOf
    from tests.vault_logins import LoginLab
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
@pytest.mark.parametrize("example", [TENANTS], ids=["tenants"])
def test_orders_of_a_tenant_are_counted_in_a_pod(
    client_of: NewClientOf,
    login_lab: LoginLab,
    stack: StackEndpoints,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The service account logs in, and orders of another tenant or user are not counted."""
    lab = login_lab.lab
    lab.admin.write(
        "auth/kubernetes/role/shop",
        bound_service_account_names=["app"],
        bound_service_account_namespaces=["shop"],
        **login_lab.role_settings("1h", "1h"),
    )
    lab.write("shop/postgres", {"url": client_of.url()})
    lab.write("crm/valkey", {"url": stack.valkey_url})
    monkeypatch.setenv("VAULT_ADDR", lab.url)
    token = login_lab.file(login_lab.issuer.service_account())
    with client_of.superuser() as superuser:
        superuser.execute("TRUNCATE orders")
        owners = [(1, "auth0|ada")] * 2 + [(1, "auth0|bob"), (2, "auth0|ada")]
        for owner in owners:
            superuser.execute("INSERT INTO orders VALUES (DEFAULT, %s, %s, 'tea')", owner)

    done = copy_context().run(
        dg.materialize,
        [order_count],
        resources={"clients": clients_in_a_pod(str(token))},
        run_config={"ops": {"order_count": {"config": {"tenant_id": 1, "user_id": "auth0|ada"}}}},
        instance=instance,
    )

    (event,) = done.asset_materializations_for_node("order_count")
    assert event.metadata["orders"].value == 2
    with ValkeyClient(stack.valkey_url, key_prefix="shop:") as valkey:
        assert valkey.get("orders:1") == "2"


@pytest.mark.slow
@pytest.mark.parametrize("location", ["contacts_location.py", "tenants_location.py"])
def test_dagster_accepts_the_code_location(location: str, dagster_home: Path) -> None:
    """``dagster definitions validate`` needs no server and no variable."""
    done = validated(ROOT / "tests/examples" / location)

    assert done.returncode == 0, done.stderr
    assert "All code locations passed validation" in done.stderr + done.stdout


@pytest.mark.slow
def test_dagster_tells_a_setting_that_cannot_work_before_a_run(
    tmp_path: Path, dagster_home: Path
) -> None:
    """What needs no server to be wrong fails the validation, in the clients' own words."""
    location = tmp_path / "location.py"
    location.write_text(
        "import dagster as dg\n"
        "from clients.dagster_adapter import ClientsResource\n"
        "clients = ClientsResource.from_env(identity={'tenant_id': 'tenant_id:int'})\n"
        "defs = dg.Definitions(resources={'clients': clients})\n"
    )
    done = validated(location)

    assert done.returncode != 0
    assert "'tenant_id' cannot name a setting" in done.stderr + done.stdout


def validated(location: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dagster", "definitions", "validate"]
    return subprocess.run(
        [*command, "-f", str(location)],
        cwd=ROOT,
        env=child_environment({}),
        capture_output=True,
        text=True,
        check=False,
    )

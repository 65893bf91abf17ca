"""``ClientsResource``: all three clients, once per process, closed at its end."""

from __future__ import annotations

import inspect
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import dagster as dg
import pytest
from dagster import EnvVar

from clients import (
    ClientError,
    PostgresClient,
    PostgresConfigurationError,
    ValkeyClient,
    VaultSecretNotFoundError,
    build_clients,
)
from clients._dagster.registry import close_shared_clients
from clients.dagster_adapter import ClientsResource, VaultSecretsResource
from tests.dagster_entry_points import nesting
from tests.dagster_nested import FigureManager, FigureRepository, doubled, figure, pools_used

if TYPE_CHECKING:
    from pathlib import Path

    from tests.rotation_lab import RotationLab
    from tests.vault_fixtures import VaultLab
    from utils.local_stack import StackEndpoints


@pytest.fixture
def resource(
    stack: StackEndpoints, dagster_home: Path, monkeypatch: pytest.MonkeyPatch
) -> ClientsResource:
    for name, value in stack.environment().items():
        monkeypatch.setenv(name, value)
    return ClientsResource.from_env(key_prefix=f"{uuid4()}:")


def test_the_three_clients_work(resource: ClientsResource) -> None:
    """Secrets, one user's rows and a counter."""
    user = uuid4()

    resource.postgres.execute(
        "INSERT INTO contacts (user_id, name) VALUES (%s, 'Ada')", (user,), user_id=user
    )

    assert resource.postgres.execute_scalar("SELECT name FROM contacts", user_id=user) == "Ada"
    assert resource.valkey.incr("visits") == 1
    assert resource.vault.get_valkey_url().startswith("redis")
    assert resource.health_check() is True


def test_equal_configurations_share_their_clients(resource: ClientsResource) -> None:
    """Sixteen threads with a resource object each get one pool; another setting gets another."""
    settings = {"key_prefix": resource.key_prefix}

    with ThreadPoolExecutor(16) as pool:
        pools = set(pool.map(lambda _: ClientsResource.from_env(**settings).postgres, range(32)))

    assert pools == {resource.postgres}
    assert ClientsResource.from_env(**settings, pool_size=1, min_size=1).postgres not in pools
    assert VaultSecretsResource.from_env().client is resource.vault


def test_the_end_of_the_process_closes_all_three(resource: ClientsResource) -> None:
    """Pools are closed before the Vault client that they ask; no thread stays."""
    threads = threading.active_count()
    held = (resource.valkey, resource.postgres, resource.vault)

    close_shared_clients()

    for client in held:
        with pytest.raises(ClientError, match="is closed"):
            client.health_check()
    assert threading.active_count() == threads


def test_settings_may_be_variables(
    resource: ClientsResource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers and text come from the environment, and what is unset is the default."""
    monkeypatch.setenv("A_POOL_SIZE", "3")
    prefix = EnvVar("AN_UNSET_PREFIX")

    clients = ClientsResource.from_env(
        pool_size=EnvVar.int("A_POOL_SIZE"), min_size=EnvVar.int("UNSET"), key_prefix=prefix
    )

    assert clients.postgres.stats()["max_size"] == 3
    assert clients.valkey.get("none") is None


def test_an_identity_is_plain_configuration(resource: ClientsResource) -> None:
    """A setting and its type for each name; equal ones share a client, others do not."""
    settings: dict[str, Any] = {
        "key_prefix": resource.key_prefix,
        "identity": {"tenant_id": "shop.tenant_id:int", "region": "shop.region:str?"},
        "local_role": "crm_user",
    }
    clients = ClientsResource.from_env(**settings)

    tenant = "SELECT current_setting('shop.tenant_id')"
    assert clients.postgres.execute_scalar(tenant, identity={"tenant_id": 7}) == "7"
    assert ClientsResource.from_env(**settings).postgres is clients.postgres
    other = {**settings, "identity": {"tenant_id": "shop.tenant_id:str"}}
    assert ClientsResource.from_env(**other).postgres is not clients.postgres
    wrong = ClientsResource.from_env(**{**settings, "identity": {"tenant_id": "tenant_id:int"}})
    with pytest.raises(ClientError, match="tenant_id"):
        _ = wrong.postgres


def test_each_setting_reaches_its_client(resource: ClientsResource, stack: StackEndpoints) -> None:
    """Pool sizes and time limit are PostgreSQL's, the prefix is Valkey's."""
    clients = ClientsResource.from_env(
        pool_size=4, min_size=3, statement_timeout=7.0, key_prefix=resource.key_prefix
    )
    clients.valkey.set("a", "1", expire_seconds=60)

    with ValkeyClient(stack.valkey_url) as bare:
        assert bare.get(f"{resource.key_prefix}a") == "1"
    numbers = clients.postgres.stats()
    assert (numbers["max_size"], numbers["size"]) == (4, 3)
    assert clients.postgres.execute_scalar("SHOW statement_timeout", user_id=uuid4()) == "7s"


def test_roles_give_users_of_ones_own(
    rotation_lab: RotationLab, dagster_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``database_role`` and ``valkey_role`` are those of build_clients(); no user stays behind."""
    lab = rotation_lab
    for name, value in lab.environ(lab.role()).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("THE_ROLE", lab.dynamic_role(ttl=60, max_ttl=600))
    clients = ClientsResource.from_env(
        database_role=EnvVar("THE_ROLE"), valkey_role=lab.dynamic_cache_role(ttl=60, max_ttl=600)
    )

    name = clients.postgres.execute_scalar("SELECT session_user::text", user_id=uuid4())
    assert name in lab.database_users()
    assert len(lab.cache_users()) == 1
    close_shared_clients()
    assert (lab.database_users(), lab.cache_users()) == (set(), set())


def test_an_unfit_setting_is_named(resource: ClientsResource) -> None:
    """The clients' own checks apply, and the error says which service it was."""
    with pytest.raises(PostgresConfigurationError, match=r"^postgres: pool_size"):
        ClientsResource.from_env(pool_size=0).postgres.health_check()


def test_it_may_be_nested_and_configured_at_launch(
    resource: ClientsResource, dagster_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repository and an I/O manager with the clients inside share them with the step."""
    monkeypatch.setenv("A_POOL_SIZE", "3")
    config = {
        "vault_addr": {"env": "VAULT_ADDR"},
        "auth_method": "token",
        "token": {"env": "VAULT_TOKEN"},
        "pool_size": {"env": "A_POOL_SIZE"},
        "statement_timeout": 7.5,
        "key_prefix": resource.key_prefix,
    }
    at_launch: Any = ClientsResource.configure_at_launch()
    resources = {
        "clients": at_launch,
        "repository": FigureRepository(clients=at_launch),
        "io_manager": FigureManager(clients=at_launch),
    }

    pools_used.clear()
    with nesting():
        done = copy_context().run(
            dg.materialize,
            [figure, doubled],
            resources=resources,
            run_config={"resources": {"clients": {"config": config}}},
        )

    settings = {"key_prefix": resource.key_prefix, "statement_timeout": 7.5, "pool_size": 3}
    clients = ClientsResource.from_env(**settings)
    assert done.success
    assert clients.valkey.get("doubled") == "42"
    assert clients.postgres.stats()["max_size"] == 3
    assert pools_used == {clients.postgres}


def test_the_defaults_are_the_factorys() -> None:
    """What is not configured is as ``build_clients()`` has it."""
    factory = inspect.signature(build_clients).parameters
    # Where the factory has None, the client's own default stands.
    clients = {
        **inspect.signature(ValkeyClient).parameters,
        **inspect.signature(PostgresClient).parameters,
    }

    own = ClientsResource.model_fields.keys() - VaultSecretsResource.model_fields.keys()

    assert own == {
        "database_path",
        "valkey_path",
        "pool_size",
        "min_size",
        "statement_timeout",
        "identity",
        "local_role",
        "key_prefix",
        "database_role",
        "valkey_role",
    }
    for name in own:
        default = factory[name].default
        if default is None and name in clients:
            default = clients[name].default
        assert ClientsResource.model_fields[name].default == default


def test_a_failure_is_not_kept(
    stack: StackEndpoints,
    vault_lab: VaultLab,
    own_secrets: dict[str, str],
    dagster_home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once the missing secret is there, the next use works."""
    for name, value in own_secrets.items():
        monkeypatch.setenv(name, value)
    resource = ClientsResource.from_env(key_prefix=f"{uuid4()}:")
    vault_lab.admin.secrets.kv.v2.delete_latest_version_of_secret("crm/valkey")

    assert resource.health_check() is False
    with pytest.raises(VaultSecretNotFoundError, match=r"^vault, for valkey: "):
        resource.valkey.get("a")

    vault_lab.write("crm/valkey", {"url": stack.valkey_url})
    assert resource.valkey.get("a") is None


def test_the_secrets_may_lie_elsewhere(own_secrets: dict[str, str], vault_lab: VaultLab) -> None:
    """As with ``build_clients()``: other paths, and ``mount:path``."""
    for name in ("database", "valkey"):
        secret = vault_lab.admin.secrets.kv.v2.read_secret_version(
            f"crm/{name}", raise_on_deleted_version=True
        )["data"]["data"]
        vault_lab.write(f"team/{name}", secret)
    resource = ClientsResource(
        vault_addr=own_secrets["VAULT_ADDR"],
        auth_method="token",
        token=own_secrets["VAULT_TOKEN"],
        database_path="secret:team/database",
        valkey_path="team/valkey",
    )

    assert resource.health_check() is True

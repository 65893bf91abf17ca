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
    ConfigurationError,
    PostgresClient,
    PostgresConfigurationError,
    ValkeyClient,
    VaultClient,
    VaultConfigurationError,
    VaultSecretNotFoundError,
    build_clients,
)
from clients._dagster.registry import close_shared_clients
from clients.dagster_adapter import ClientsResource, VaultSecretsResource
from clients.sqlalchemy_adapter import create_engine
from clients.vault_auth import Agent, AppRole, Jwt, Kubernetes, Token
from tests.dagster_entry_points import nesting
from tests.dagster_nested import FigureManager, FigureRepository, doubled, figure, pools_used

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.rotation_lab import RotationLab
    from tests.vault_fixtures import VaultLab
    from tests.vault_logins import LoginLab
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


def test_an_asset_that_closes_a_client_takes_it_from_no_other_asset(
    resource: ClientsResource,
) -> None:
    """Each way to close one does nothing: steps of a process share it, until the process ends."""
    user = uuid4()

    def closes(clients: ClientsResource, vault: VaultSecretsResource) -> None:
        with clients.postgres as db, clients.valkey as valkey, vault.client as secrets:
            valkey.incr("steps")
            assert db.execute("SELECT 1 AS n", user_id=user) == [{"n": 1}]
            assert secrets.get_secret("crm/valkey")
        for client in (clients.valkey, clients.postgres, clients.vault, vault.client):
            client.close()
        clients.valkey.client.close()
        create_engine(clients.postgres).dispose()

    def goes_on(clients: ClientsResource, vault: VaultSecretsResource) -> None:
        assert clients.valkey.incr("steps") == 2
        assert clients.valkey.client.ping()
        assert clients.postgres.execute_scalar("SELECT 1", user_id=user) == 1
        assert vault.get_secret("crm/valkey", use_cache=False)
        assert clients.health_check()

    parameters = {"clients": ClientsResource, "vault": VaultSecretsResource}
    for step in (closes, goes_on):
        step.__annotations__.update(parameters)
    first = dg.asset(closes)
    done = copy_context().run(
        dg.materialize,
        [first, dg.asset(deps=[first])(goes_on)],
        resources={"clients": resource, "vault": VaultSecretsResource.from_env()},
    )

    assert done.success


@pytest.mark.slow
def test_threads_that_close_clients_disturb_no_other_thread(resource: ClientsResource) -> None:
    """A sensor and a step may share a process: no call of one fails because the other closes."""
    ended = threading.Event()

    def close_all_the_time() -> None:
        while not ended.is_set():
            for client in (resource.valkey, resource.postgres, resource.vault):
                client.close()

    def work(number: int) -> None:
        for _ in range(25):
            assert resource.postgres.execute_scalar("SELECT 1", user_id=uuid4()) == 1
            assert resource.valkey.incr(f"thread {number}")
            assert resource.vault.get_secret("crm/valkey", use_cache=False)

    with ThreadPoolExecutor(6) as pool:
        closing = [pool.submit(close_all_the_time) for _ in range(2)]
        working = [pool.submit(work, number) for number in range(4)]
        failures = [one.exception() for one in working]
        ended.set()
    assert failures == [None] * 4
    assert [one.exception() for one in closing] == [None] * 2


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


def test_an_identity_is_plain_configuration(
    resource: ClientsResource, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    monkeypatch.setenv("A_SETTING", "shop.tenant_id:int")
    named = {**settings, "identity": settings["identity"] | {"tenant_id": EnvVar("A_SETTING")}}
    assert ClientsResource.from_env(**named).postgres is clients.postgres
    monkeypatch.setenv("A_SETTING", "tenant_id:int")
    with pytest.raises(ClientError, match="tenant_id"):
        _ = ClientsResource.from_env(**named).postgres


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


def test_an_unfit_setting_is_named(
    resource: ClientsResource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clients' own checks apply, and the error says which service it was."""
    monkeypatch.setenv("A_POOL_SIZE", "-1")
    with pytest.raises(PostgresConfigurationError, match=r"^postgres: pool_size"):
        ClientsResource.from_env(pool_size=EnvVar.int("A_POOL_SIZE")).postgres.health_check()


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
        "postgres_options",
        "valkey_options",
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
    for name in own - {"postgres_options", "valkey_options"}:
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


def test_every_setting_of_a_client_may_be_configured(
    resource: ClientsResource, dagster_home: Path
) -> None:
    """As in the typed dicts of ``build_clients()``, and the same in a run as outside of one."""
    settings: dict[str, Any] = {
        "postgres_options": {
            "pool_size": 3,
            "pool_timeout": 1.5,
            "admin_url": None,
            "identity": {"tenant_id": "shop.tenant_id:int"},
        },
        "valkey_options": {"key_prefix": f"{resource.key_prefix}x:", "socket_timeout": 1.0},
    }
    clients = ClientsResource.from_env(**settings)
    used: list[PostgresClient] = []
    copy_context().run(
        dg.materialize_to_memory,
        [_asset_that(ClientsResource, lambda inside: used.append(inside.postgres))],
        resources={"vault": clients},
    )

    assert used == [clients.postgres]
    assert clients.postgres.stats()["max"] == 3
    assert clients.postgres.stats(admin=True) == {}
    assert clients.valkey.key_prefix == f"{resource.key_prefix}x:"
    tenant = "SELECT current_setting('shop.tenant_id')"
    assert clients.postgres.execute_scalar(tenant, identity={"tenant_id": 7}) == "7"
    other = {**settings, "postgres_options": {"pool_size": 4, "admin_url": None}}
    assert ClientsResource.from_env(**other).postgres is not clients.postgres
    with pytest.raises(ConfigurationError, match="pool_size is given twice"):
        ClientsResource.from_env(**settings, pool_size=5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"postgres_options": {"pool_sise": 3}}, "postgres_options has no setting 'pool_sise'"),
        ({"valkey_options": {"connection_url": "x"}}, "valkey_options has no setting"),
        ({"postgres_options": {"configure": print}}, "not JSON"),
        ({"valkey_options": {"json_default": str}}, "not JSON"),
        ({"postgres_options": {"admin_url": "postgresql://u:p@h/d"}}, "put it into the secret"),
        ({"postgres_options": {"identity_key": "5a" * 32}}, "put it into the secret"),
        ({"postgres_options": {"pool_size": EnvVar.int("X")}}, "pool_size is a variable"),
    ],
)
def test_an_option_that_cannot_be_configuration_is_refused_by_name(
    options: dict[str, Any], words: str
) -> None:
    """When the resource is made, and without its value."""
    with pytest.raises(ConfigurationError, match=words) as caught:
        ClientsResource(**options)

    assert "u:p@h" not in str(caught.value)


@pytest.mark.parametrize(
    "kind", [pytest.param(VaultSecretsResource, marks=pytest.mark.slow), ClientsResource]
)
def test_a_login_may_be_an_object(
    kind: Any,
    login_lab: LoginLab,
    own_secrets: dict[str, str],
    dagster_home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stored as plain configuration, so that a run has it, too; a path may be a variable."""
    del own_secrets
    monkeypatch.setenv("A_TOKEN_PATH", str(login_lab.file(login_lab.issuer.service_account())))
    role = login_lab.kubernetes_role()
    auths: list[Any] = [
        login_lab.case("kubernetes").auth,
        {"method": "kubernetes", "role": role, "token_path": EnvVar("A_TOKEN_PATH")},
        login_lab.case("jwt").auth,
        login_lab.case("app_role_file").auth,
        login_lab.case("token_file").auth,
    ]
    for auth in auths:
        resource = kind(vault_addr=login_lab.lab.url, auth=auth)
        read: list[object] = []

        copy_context().run(
            dg.materialize_to_memory,
            [_asset_that(kind, lambda vault: read.append(_client_of(vault)))],  # noqa: B023 - run now
            resources={"vault": resource},
        )

        assert read == [_client_of(resource)]
        assert _client_of(resource).get_secret("app/db") == {"url": "postgresql://app"}


def _client_of(resource: Any) -> VaultClient:
    found: VaultClient = (
        resource.vault if isinstance(resource, ClientsResource) else resource.client
    )
    return found


def _asset_that(kind: type, use: Callable[[Any], object]) -> dg.AssetsDefinition:
    # Any, because this file's annotations are text, and Dagster looks for the class.
    def uses(vault: Any) -> None:
        use(vault)

    uses.__annotations__["vault"] = kind
    return dg.asset(name="uses")(uses)


@pytest.mark.parametrize(
    ("auth", "words"),
    [
        (Token("canary"), "Token, which Dagster's configuration cannot carry.*EnvVar"),
        (Token(lambda: "canary"), "Token, which Dagster's configuration cannot carry"),
        (Token(wrapped="canary"), "Token, which Dagster's configuration cannot carry"),
        (AppRole("role", "canary"), "AppRole with its secret id"),
        (AppRole("role", wrapped_secret_id="canary"), "AppRole with its secret id"),
        (Jwt("role", "canary.x.y"), "Jwt without a file"),
    ],
)
def test_a_login_that_holds_a_secret_is_not_stored(auth: Any, words: str) -> None:
    """Dagster keeps configuration in its database, in clear."""
    with pytest.raises(VaultConfigurationError, match=words) as caught:
        VaultSecretsResource(auth=auth)

    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"auth": {"method": "kubernetes", "role": EnvVar("UNSET_ROLE")}}, "auth has no 'role'"),
        ({"auth": Agent(), "vault_addr": ""}, r"vault_addr \(VAULT_ADDR\) not set: auth needs it"),
    ],
)
def test_an_unfit_login_is_named(settings: dict[str, Any], words: str) -> None:
    """Before anything is sent."""
    resource = VaultSecretsResource(**{"vault_addr": "http://127.0.0.1:1"} | settings)

    with pytest.raises(VaultConfigurationError, match=words):
        resource.get_secret("x")


def test_a_login_that_is_spelled_out_stands_over_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``from_env(auth=...)`` takes the address alone from the variables."""
    for name in ("VAULT_ADDR", "VAULT_TOKEN", "VAULT_ROLE_ID"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    resource = VaultSecretsResource.from_env(auth=Kubernetes("shop", "/run/token"))

    assert (resource.token, resource.role_id) == (None, None)
    assert resource.auth == {
        "method": "kubernetes",
        "role": "shop",
        "token_path": "/run/token",
        "mount": "kubernetes",
    }

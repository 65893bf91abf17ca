"""``build_clients()`` and the command line on secrets that lie elsewhere, and in parts."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from clients import (
    ConfigurationError,
    PostgresClient,
    PostgresConnectionError,
    PostgresOptions,
    ValkeyClient,
    ValkeyOptions,
    VaultAuthenticationError,
    VaultSecretNotFoundError,
    build_clients,
)
from clients.__main__ import main
from clients._valkey.url import parse_valkey_url
from tests.secret_walker import SENTINEL, leaks_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.vault_fixtures import VaultLab
    from utils.local_stack import StackEndpoints

_MOUNT = "kv-shop"
_PATHS = {
    "FAILFAST_DATABASE_PATH": f"{_MOUNT}:shop/prod/postgres",
    "FAILFAST_VALKEY_PATH": f"{_MOUNT}:shop/prod/valkey",
}


@pytest.fixture(scope="module", params=["1", "2"])
def shop(
    request: pytest.FixtureRequest, vault_lab: VaultLab, stack: StackEndpoints
) -> Iterator[dict[str, str]]:
    """A team's own layout: another mount, other paths, no URLs; yield its VAULT_ variables."""
    admin = vault_lab.admin
    admin.sys.enable_secrets_engine("kv", path=_MOUNT, options={"version": request.param})
    admin.sys.create_or_update_policy(
        "shop", f'path "{_MOUNT}/*" {{ capabilities = ["read", "list"] }}'
    )
    postgres = conninfo_to_dict(stack.database_url)
    valkey = parse_valkey_url(stack.valkey_url)
    secrets: dict[str, dict[str, Any]] = {
        "postgres": {
            "username": postgres["user"],
            "password": postgres["password"],
            "host": postgres["host"],
            "port": int(str(postgres["port"])),
            "dbname": postgres["dbname"],
            "owner": "team shop",
        },
        "valkey": {
            "host": valkey.addresses[0].host,
            "port": str(valkey.addresses[0].port),
            "password": valkey.password,
        },
    }
    for name, fields in secrets.items():
        fields = {one: value for one, value in fields.items() if value is not None}  # noqa: PLW2901
        if request.param == "1":
            admin.write_data(f"{_MOUNT}/shop/prod/{name}", data=fields)
        else:
            vault_lab.write(f"shop/prod/{name}", fields, mount_point=_MOUNT)
    yield {"VAULT_ADDR": vault_lab.url, "VAULT_TOKEN": vault_lab.token(policies=["shop"])}
    admin.sys.disable_secrets_engine(_MOUNT)


def test_a_teams_own_layout_runs_as_it_is(
    shop: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """No line of code: two variables, or two arguments, for the library and the command line."""
    database, valkey = _PATHS.values()
    for environ, arguments in (
        (shop | _PATHS, {}),
        (shop, {"database_path": database, "valkey_path": valkey}),
    ):
        with build_clients(environ=environ, **arguments) as clients:  # type: ignore[arg-type]  # str alone
            assert clients.health_check().healthy
            assert clients.postgres.execute_admin("SELECT 1 AS one") == [{"one": 1}]
    assert main(["check", "--json"], shop | _PATHS) == 0
    assert json.loads(capsys.readouterr().out)["healthy"]
    paths = ["--database-path", database]
    assert main(["check", *paths, "--valkey-path", valkey], shop) == 0
    assert "All infrastructure clients healthy!" in capsys.readouterr().out
    assert main(["rls", *paths], shop) == 0
    assert "no findings" in capsys.readouterr().out


def test_an_argument_stands_over_the_variable(shop: dict[str, str]) -> None:
    """As everywhere; what is not there is told with the path that was asked for."""
    with pytest.raises(VaultSecretNotFoundError, match="'elsewhere' in mount 'kv-shop'"):
        build_clients(environ=shop | _PATHS, database_path=f"{_MOUNT}:elsewhere")


def test_a_secret_that_cannot_be_read_is_vaults_error(shop: dict[str, str]) -> None:
    """PostgreSQL was never asked: the message begins with Vault, and says for whom it was."""
    with pytest.raises(VaultAuthenticationError, match=r"^vault, for postgres: cannot read"):
        build_clients(environ=shop)


@pytest.mark.parametrize(
    ("options", "client", "not_settings"),
    [
        (PostgresOptions, PostgresClient, {"connection_url"}),
        (ValkeyOptions, ValkeyClient, {"connection_url"}),
    ],
)
def test_the_typed_dicts_have_every_setting_of_the_constructors(
    options: Any, client: Any, not_settings: set[str]
) -> None:
    """Name by name, and type by type."""
    parameters = inspect.signature(client).parameters
    settings = {
        name: one.annotation for name, one in parameters.items() if name not in not_settings
    }

    assert {
        name: annotation.__forward_arg__ for name, annotation in options.__annotations__.items()
    } == settings


def test_settings_reach_the_clients(environ_of_stack: dict[str, str]) -> None:
    """Through the typed dicts, and through the older keywords beside them."""
    with build_clients(
        environ=environ_of_stack,
        postgres=PostgresOptions(pool_size=3, admin_url=None),
        valkey=ValkeyOptions(key_prefix="shop:", socket_timeout=1.0),
        pool_size=3,
        min_size=1,
    ) as clients:
        assert clients.postgres.stats()["max_size"] == 3
        assert clients.valkey.key_prefix == "shop:"


@pytest.fixture
def environ_of_stack(stack: StackEndpoints) -> dict[str, str]:
    """The variables of the running stack."""
    return stack.environment()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            {"postgres": {"pool_sise": 3}},
            "postgres has no setting 'pool_sise': known are",
        ),
        ({"valkey": {"connection_url": "x"}}, "valkey has no setting 'connection_url'"),
        ({"valkey": "redis://"}, r"valkey is str: pass ValkeyOptions\(...\)"),
        ({"postgres": {"pool_size": 3}, "pool_size": 4}, "pool_size is given twice"),
        ({"valkey": {"key_prefix": "a"}, "key_prefix": "b"}, "key_prefix is given twice"),
    ],
)
def test_an_unknown_or_doubled_setting_is_refused_before_anything_is_opened(
    arguments: dict[str, Any], told: str
) -> None:
    """A slip of the pen is no setting that is silently left out."""
    with pytest.raises(ConfigurationError, match=told):
        build_clients(environ={}, **arguments)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"vault": "http://127.0.0.1:8200"}, "^vault is str: pass a VaultClient"),
        ({"environ": ["VAULT_ADDR"]}, "^environ is list: pass a mapping"),
        ({"environ": "VAULT_ADDR"}, "^environ is str: pass a mapping"),
    ],
)
def test_what_is_no_client_and_no_environment_is_refused_by_name(
    arguments: dict[str, Any], told: str
) -> None:
    """It would fail with an error that is not ours, where it is first used."""
    with pytest.raises(ConfigurationError, match=told):
        build_clients(**arguments)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"connect_timeout": 1.0}, "^postgres: cannot connect"),
        ({"connect_timeout": 0}, "^postgres: connect_timeout is 0"),
        ({"no_such": 1}, "^postgres has no setting 'no_such'"),
    ],
)
def test_a_refused_setting_shows_no_password_of_another_one(
    shop: dict[str, str], closed_port: int, options: dict[str, Any], told: str
) -> None:
    """The administrators' URL may be a setting, which every frame of the factory would show."""
    url = f"postgresql://crm_admin:{SENTINEL}@127.0.0.1:{closed_port}/crm"

    with pytest.raises((ConfigurationError, PostgresConnectionError), match=told) as caught:
        build_clients(environ=shop | _PATHS, postgres={"admin_url": url, **options})  # type: ignore[arg-type]  # unusable

    assert leaks_in(caught.value, SENTINEL) == []

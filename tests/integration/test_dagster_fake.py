"""The fake resource answers as the real one does, on the same secrets."""

from __future__ import annotations

from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

from clients import ClientError, VaultClient, VaultConfigurationError, VaultConnectionError
from clients._dagster.fake import FakeVaultClient
from clients.dagster_adapter import FakeVaultSecretsResource, VaultSecretsResource
from tests.dagster_entry_points import ENTRY_POINTS, url

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.vault_fixtures import Role, VaultLab

DATABASE = "bike-data-flow/production/database"
SECRETS: dict[str, dict[str, Any]] = {
    "app/db": {"url": "postgresql://app"},
    "app/nested/deep": {"hosts": ["a", "b"]},
    "app/partial": {"username": "u"},
    # A folder that no other test writes to.
    **{f"shelf/{name}": {"title": "t"} for name in ("d", "b", "inner/x", "c", "inner/y", "a", "e")},
    DATABASE: {"username": "u", "password": "p", "host": "h", "database": "d"},
    "bike-data-flow/production/api-keys/weather": {"api_key": "k"},
}

CALLS: dict[str, Callable[[VaultSecretsResource], Any]] = {
    "a secret": lambda vault: vault.get_secret("app/db"),
    "a secret with a list": lambda vault: vault.get_secret("app/nested/deep"),
    "the API's spelling": lambda vault: vault.get_secret("secret/data/app/db"),
    "version 1": lambda vault: vault.get_secret("app/nested/deep", 1),
    "fresh": lambda vault: vault.get_secret("app/db", use_cache=False),
    "a missing version": lambda vault: vault.get_secret("app/nested/deep", version=9),
    "a missing secret": lambda vault: vault.get_secret("app/none"),
    "a folder as a secret": lambda vault: vault.get_secret("app"),
    "an empty path": lambda vault: vault.get_secret(""),
    "a path that climbs": lambda vault: vault.get_secret("../sys"),
    "credentials": lambda vault: vault.get_database_credentials(),
    "credentials elsewhere": lambda vault: vault.get_database_credentials(database_path=DATABASE),
    "credentials without fields": lambda vault: vault.get_database_credentials("app/partial"),
    "an API key": lambda vault: vault.get_api_key("weather"),
    "a missing API key": lambda vault: vault.get_api_key("none"),
    "a folder": lambda vault: vault.list_secrets("shelf"),
    "a folder with a slash": lambda vault: vault.list_secrets("bike-data-flow/production/"),
    "a missing folder": lambda vault: vault.list_secrets("none"),
    "a secret as a folder": lambda vault: vault.list_secrets("app/db"),
    "health": lambda vault: vault.health_check(),
}


@pytest.fixture
def real(role: Role, vault_lab: VaultLab) -> VaultSecretsResource:
    for path, fields in SECRETS.items():
        vault_lab.write(path, fields)
    return VaultSecretsResource.from_env()


@pytest.mark.parametrize("call", CALLS)
def test_the_fake_answers_as_the_real_one(call: str, real: VaultSecretsResource) -> None:
    """Values are equal, and so are the class and reason of errors."""
    fake = FakeVaultSecretsResource(secrets=SECRETS)

    assert outcome(CALLS[call], fake) == outcome(CALLS[call], real)


#: These make a resource from the real class themselves.
MAKE_THE_REAL_ONE = {"from_resource_context", "run config"} | {
    name for name in ENTRY_POINTS if name.startswith("legacy")
}


@pytest.mark.parametrize("entry", sorted(ENTRY_POINTS.keys() - MAKE_THE_REAL_ONE))
def test_the_fake_stands_wherever_the_real_one_does(entry: str, dagster_home: object) -> None:
    """Annotations, contexts, sensors and nested resources take it, and nothing is asked."""
    fake = FakeVaultSecretsResource(secrets=SECRETS)

    assert copy_context().run(ENTRY_POINTS[entry], fake) == "postgresql://app"


def test_the_fake_keeps_any_json_in_a_run(dagster_home: object) -> None:
    """Null, nested values and what looks like one of Dagster's variables come out unchanged."""
    odd = {"none": None, "list": [None, 1.5, True], "inner": {"none": None}, "env": {"env": "HOME"}}
    read: list[Any] = []

    # Any, because this file's annotations are text, and Dagster looks for the class.
    def reads(vault: Any) -> None:
        read.append(vault.get_secret("app/odd"))

    reads.__annotations__["vault"] = FakeVaultSecretsResource
    fake = FakeVaultSecretsResource(secrets={"app/odd": odd, "env": {"env": "HOME"}})
    copy_context().run(
        dg.materialize_to_memory, [dg.asset(name="reads")(reads)], resources={"vault": fake}
    )

    assert read == [odd]


def test_a_caller_cannot_change_the_fakes_secrets() -> None:
    """Each read is a copy."""
    fake = FakeVaultSecretsResource(secrets=SECRETS)

    fake.get_secret("app/nested/deep")["hosts"].append("c")

    assert fake.get_secret("app/nested/deep") == {"hosts": ["a", "b"]}


def test_an_unhealthy_fake_fails_as_an_unreachable_vault() -> None:
    """Users can test what their assets do without Vault."""
    fake = FakeVaultSecretsResource(secrets=SECRETS, healthy=False)

    assert fake.health_check() is False
    for call in (lambda: fake.get_secret("app/db"), lambda: fake.list_secrets("app")):
        with pytest.raises(VaultConnectionError, match="healthy=False"):
            call()
    with pytest.raises(VaultConnectionError):
        url(vault=fake)


def test_the_fakes_secrets_show_in_no_repr() -> None:
    """A failing test of a user's prints no secret."""
    assert "postgresql" not in repr(FakeVaultSecretsResource(secrets=SECRETS))


def outcome(call: Callable[[Any], Any], vault: Any) -> Any:
    try:
        return call(vault)
    except ClientError as error:
        return type(error), getattr(error, "reason", None)


#: One call of each public name of a client.
EVERY_NAME: dict[str, Callable[[VaultClient], Any]] = {
    "addr": lambda vault: type(vault.addr),
    "server": lambda vault: type(vault.server),
    "cache_stats": lambda vault: set(vault.cache_stats()),
    "clear_cache": lambda vault: vault.clear_cache(),
    "credential_life": lambda vault: type(vault.credential_life()),
    "get_api_key": lambda vault: vault.get_api_key("weather"),
    "get_database_admin_url": lambda vault: vault.get_database_admin_url(path="app/db"),
    "get_database_credentials": lambda vault: vault.get_database_credentials(),
    "get_database_url": lambda vault: vault.get_database_url(path="app/db"),
    "get_email_credentials": lambda vault: vault.get_email_credentials(path="app/none"),
    "get_secret": lambda vault: vault.get_secret("app/db"),
    "get_valkey_url": lambda vault: vault.get_valkey_url(path="app/db"),
    "health_check": lambda vault: vault.health_check(),
    "leased_url": lambda vault: type(vault.leased_url("role", lambda: "postgresql://db")),
    "list_secrets": lambda vault: vault.list_secrets("shelf"),
    "secret_age": lambda vault: 0 <= vault.secret_age("app/db") < 3600,
    "server_version": lambda vault: type(vault.server_version()),
    "stats": lambda vault: set(vault.stats()),
    "close": lambda vault: vault.close(),
}


def test_every_public_name_of_a_client_is_compared() -> None:
    """A method that a client gets later is added here, and so to the comparison."""
    with FakeVaultClient({}) as fake:
        names = {name for name in dir(fake) if not name.startswith("_")}

    assert names == set(EVERY_NAME)


@pytest.mark.parametrize("name", EVERY_NAME)
def test_every_public_name_of_a_client_answers_as_the_real_one(
    name: str, real: VaultSecretsResource
) -> None:
    """The fake's client is VaultClient on another transport, so none can be missing."""
    with VaultClient() as client, FakeVaultClient(SECRETS) as fake:
        assert outcome(EVERY_NAME[name], fake) == outcome(EVERY_NAME[name], client)


@pytest.mark.parametrize("name", sorted(EVERY_NAME.keys() - {"close"}))
def test_the_resources_answer_every_name_of_a_client(name: str, real: VaultSecretsResource) -> None:
    """The real one and the fake alike, and as the client of the process does."""
    fake: Any = FakeVaultSecretsResource(secrets=SECRETS)

    assert outcome(EVERY_NAME[name], fake) == outcome(EVERY_NAME[name], real)
    if name != "health_check":  # a resource's never raises
        assert outcome(EVERY_NAME[name], fake) == outcome(EVERY_NAME[name], fake.client)


def test_a_resource_has_no_other_names(real: VaultSecretsResource) -> None:
    """The shared client is not a resource's to close, and a slip of the pen is told as one."""
    for resource in (real, FakeVaultSecretsResource()):
        for name in ("close", "get_secrets", "_session"):
            with pytest.raises(AttributeError, match=name):
                getattr(resource, name)


def test_a_fakes_lease_is_a_credential() -> None:
    """It gives a user and a password, and can be closed."""
    with FakeVaultClient({}).leased_url("crm-app", lambda: "postgresql://h/db") as leased:
        assert leased() == "postgresql://v-crm-app-1:fake-1@h/db"
        assert leased.life().remaining is not None


def test_a_fake_keeps_its_client() -> None:
    """Its cache works as a client's does, and is its own."""
    fakes = [FakeVaultSecretsResource(secrets=SECRETS) for _ in range(2)]
    for _ in range(3):
        fakes[0].get_secret("app/db")

    assert (fakes[0].client.cache_stats()["hits"], fakes[1].client.cache_stats()["hits"]) == (2, 0)


def test_a_value_that_is_no_json_is_refused() -> None:
    """Vault could not hold it, and the real client would never return it."""
    with pytest.raises(VaultConfigurationError, match=r"app/odd.* is no JSON"):
        FakeVaultClient({"app/odd": {"when": object()}})


def test_closing_the_fakes_client_does_nothing() -> None:
    """As with the real one, which all that a process runs share."""
    fake = FakeVaultSecretsResource(secrets=SECRETS)
    with fake.client as client:
        client.close()

    assert fake.get_secret("app/db") == SECRETS["app/db"]

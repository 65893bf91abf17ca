"""The resource's configuration: defaults, variables, what is refused, and what never shows."""

from __future__ import annotations

import pickle
import traceback
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInvalidInvocationError, EnvVar
from pydantic import ValidationError

from clients import ConfigurationError, VaultConfigurationError
from clients._dagster.config import resolve
from clients.dagster_adapter import (
    ClientsResource,
    FakeVaultSecretsResource,
    VaultSecretsResource,
    VaultSecretsResourceConfig,
    vault_secrets_resource,
)
from clients.vault_auth import Agent, Kubernetes

CANARY = "canary-4b7e"
BY_TOKEN: dict[str, Any] = {"vault_addr": "http://127.0.0.1:1", "auth_method": "token"}


@pytest.fixture(params=[VaultSecretsResourceConfig, VaultSecretsResource, ClientsResource])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_the_defaults_are_the_agreed_ones() -> None:
    """Nine fields with the defaults of the interface that users know."""
    assert VaultSecretsResourceConfig().model_dump() == {
        "vault_addr": "https://vault.internal.bike-data-flow.com:8200",
        "auth_method": "approle",
        "role_id": None,
        "secret_id": None,
        "token": None,
        "namespace": None,
        "timeout": 30,
        "retries": 3,
        "cache_ttl": 300,
    }


def test_a_resource_is_made_from_a_configuration() -> None:
    """The configuration needs no running Dagster, and its variables stay variables."""
    config = VaultSecretsResourceConfig(**BY_TOKEN, token=EnvVar("A_TOKEN"), timeout=7)

    resource = VaultSecretsResource.from_config(config, retries=0)

    assert resource.token == EnvVar("A_TOKEN")
    assert isinstance(resource.token, EnvVar)
    assert (resource.vault_addr, resource.timeout, resource.retries) == (
        BY_TOKEN["vault_addr"],
        7,
        0,
    )


def test_variables_are_looked_up_at_use(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text and numbers come from the environment of the moment, stripped."""
    config = kind(**BY_TOKEN, token=EnvVar("A_TOKEN"), timeout=EnvVar.int("A_TIMEOUT"))
    monkeypatch.setenv("A_TOKEN", f" {CANARY}\n")
    monkeypatch.setenv("A_TIMEOUT", "7")

    resolved = resolve(config)

    assert (resolved.token, resolved.timeout) == (CANARY, 7)


@pytest.mark.parametrize("value", [None, "", " "])
def test_an_empty_variable_is_an_unset_one(
    kind: Any, value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unset number is its default, an unset name none, and never 0 or the empty text."""
    config = kind(
        **BY_TOKEN,
        token="x",
        namespace=EnvVar("A_NAMESPACE"),
        timeout=EnvVar.int("A_TIMEOUT"),
        retries=0,
    )
    monkeypatch.delenv("A_TIMEOUT", raising=False)
    if value is None:
        monkeypatch.delenv("A_NAMESPACE", raising=False)
    else:
        monkeypatch.setenv("A_NAMESPACE", value)

    resolved = resolve(config)

    assert (resolved.namespace, resolved.timeout, resolved.retries) == (None, 30, 0)


def test_an_unset_address_is_not_the_default_one(kind: Any) -> None:
    """Credentials never go to a server that the user has not named."""
    config = kind(vault_addr=EnvVar("AN_UNSET_ADDRESS"), auth_method="token", token="x")

    with pytest.raises(VaultConfigurationError, match=r"^vault_addr \(AN_UNSET_ADDRESS\) not set"):
        resolve(config)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"auth_method": "token"}, r"^token \(VAULT_TOKEN\) not set: auth_method 'token'"),
        ({}, r"^role_id \(VAULT_ROLE_ID\), secret_id \(VAULT_SECRET_ID\) not set: .*'approle'"),
        ({"role_id": "r", "secret_id": EnvVar("NO_ID")}, r"^secret_id \(NO_ID\) not set"),
        ({"role_id": "r", "secret_id": ""}, r"^secret_id \(VAULT_SECRET_ID\) not set"),
    ],
)
def test_what_is_missing_is_named_before_any_request(
    kind: Any, settings: dict[str, Any], words: str
) -> None:
    """A dead address plays no part: the settings are checked first, all in one message."""
    config = kind(vault_addr="http://127.0.0.1:1", **settings)

    with pytest.raises(VaultConfigurationError, match=words):
        resolve(config)


def test_an_empty_variable_of_ones_own_is_not_blamed_on_another(kind: Any) -> None:
    """In a run Dagster has put the empty value in the variable's place, so its name is unknown."""
    config = kind(vault_addr="http://127.0.0.1:1", role_id="r", secret_id="")

    with pytest.raises(VaultConfigurationError, match="or the variable that you named instead"):
        resolve(config)


def test_a_variable_that_is_no_number_is_named(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has the variable and not its value."""
    monkeypatch.setenv("A_TIMEOUT", CANARY)
    config = kind(**BY_TOKEN, token="x", timeout=EnvVar.int("A_TIMEOUT"))

    with pytest.raises(VaultConfigurationError, match=r"^timeout: .* A_TIMEOUT") as raised:
        resolve(config)

    assert CANARY not in "".join(traceback.format_exception(raised.value))


def test_credentials_of_the_other_method_make_no_difference() -> None:
    """Equal logins share a client, whatever else is configured beside them."""
    config: dict[str, Any] = {**BY_TOKEN, "token": "x"}

    one = resolve(VaultSecretsResource(**config, role_id="r", secret_id=CANARY))

    assert one == resolve(VaultSecretsResource(**config))


@pytest.mark.parametrize(
    "settings",
    [{"tokn": CANARY}, {"timeout": CANARY}, {"vault_addr": [CANARY], "token": 5}],
)
def test_bad_fields_are_refused_without_their_values(kind: Any, settings: dict[str, Any]) -> None:
    """A misspelt field is an error, and no error shows what was given."""
    with pytest.raises(ValidationError) as raised:
        kind(**settings)

    assert CANARY not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"timeout": EnvVar("A_TIMEOUT")}, r"EnvVar\.int\('A_TIMEOUT'\)"),
        ({"pool_size": EnvVar("A_SIZE")}, r"EnvVar\.int\('A_SIZE'\)"),
        ({"statement_timeout": EnvVar.int("A_TIME")}, "whole numbers"),
        ({"statement_timeout": EnvVar("A_TIME")}, "whole numbers"),
    ],
)
def test_a_variable_that_no_run_could_read_is_refused(settings: Any, words: str) -> None:
    """It would work in a test and fail in a job; the error says what to write instead."""
    with pytest.raises(ValidationError, match=words):
        ClientsResource(**settings)


UNUSABLE: list[tuple[dict[str, Any], str]] = [
    ({"vault_addr": "vault.test:8200"}, "vault_addr has no http:// or https:// in front"),
    ({"vault_addr": f"https://user:{CANARY}@vault.test"}, "vault_addr holds a user name or passw"),
    ({"vault_addr": "https://vault.test/v1"}, "vault_addr has a path"),
    ({"namespace": "a b"}, "namespace has a blank"),
    ({"namespace": "../admin"}, "namespace has a '.' or '..' segment"),
    ({"timeout": 0}, "timeout is 0: it must be a number of seconds"),
    ({"retries": -1}, "retries is -1: it must be a whole number"),
    ({"cache_ttl": -1}, "cache_ttl is -1"),
    ({"auth_method": "ldap"}, "auth_method is 'ldap': it must be one of 'approle', 'token'"),
    ({"auth_method": "token", "token": f"{CANARY} x"}, "token has a blank"),
]
UNUSABLE_LOGINS: list[tuple[dict[str, Any], str]] = [
    ({"token": EnvVar("A_TOKEN")}, "auth_method is 'approle', which does not use token: set"),
    (
        {"auth_method": "token", "role_id": "r", "secret_id": CANARY},
        "'token', which does not use role_id and secret_id: set auth_method to 'approle'",
    ),
    ({"auth_method": "kubernetes", "token": CANARY}, "does not use token"),
    ({"auth": {"method": "ldap"}}, "auth's method is 'ldap': it must be one of"),
    ({"auth": {"role": "x"}}, "auth's method is None"),
    ({"auth": {"method": "kubernetes"}}, "auth has no 'role', which the method"),
    ({"auth": {"method": "agent", "role": "x"}}, "auth has no 'role' for the method 'agent'"),
    ({"auth": {"method": "jwt", "role": "x"}}, "auth has no 'path', which the method 'jwt'"),
    ({"auth": {"method": "cert", "mount": "a/../b"}}, "the mount point 'a/../b' has"),
    ({"auth": Agent(), "token": CANARY}, "auth and token contradict each other"),
    ({"auth": Agent(), "auth_method": "token"}, "auth_method 'token' and auth, whose method is 'a"),
]
UNUSABLE_CLIENTS: list[tuple[dict[str, Any], str]] = [
    ({"pool_size": 0}, "pool_size is 0: it must be a whole number"),
    ({"postgres_options": {"pool_size": "3"}}, "pool_size is '3'"),
    ({"pool_size": 3, "postgres_options": {"pool_size": 4}}, "pool_size is given twice"),
    ({"postgres_options": {"on_rls_bypass": "allow"}}, "on_rls_bypass is 'allow'"),
    ({"statement_timeout": -1.0}, "statement_timeout is -1.0"),
    ({"statement_timeout": float("nan")}, "statement_timeout is nan"),
    ({"identity": {"tenant_id": "tenant_id:int"}}, "'tenant_id' cannot name a setting"),
    ({"identity": {"tenant_id": "shop.tenant_id:bigint"}}, "does not spell a setting"),
    ({"identity": {"tenant id": "shop.tenant_id:int"}}, "'tenant id' is not a name for a value"),
    ({"identity": {"a": "shop.a", "b": "shop.A"}}, "a and b have one setting"),
    ({"identity": {}}, "identity must map at least one name"),
    (
        {"identity": {"a": EnvVar("A_SETTING"), "b": "b:int"}},
        "'b' cannot name a setting",
    ),
    ({"local_role": "none"}, "local_role must be the name of a role"),
    ({"local_role": "r" * 64}, "local_role must be the name of a role"),
    ({"valkey_options": {"socket_timeout": 0}}, "socket_timeout is 0"),
    ({"valkey_options": {"max_connections": 2.5}}, "max_connections is 2.5"),
    ({"key_prefix": "\ud800"}, "key_prefix"),
    ({"database_role": "database/crm-app"}, "is not the path of one"),
    ({"valkey_role": "../root"}, "the database role '../root' has"),
    ({"database_path": "kv-shop:"}, "the secret path '' is empty"),
    ({"valkey_path": "a//b"}, "the secret path 'a//b' has an empty segment"),
]


@pytest.mark.parametrize(("settings", "words"), UNUSABLE)
def test_a_setting_that_cannot_work_is_refused_when_it_is_given(
    kind: Any, settings: dict[str, Any], words: str
) -> None:
    """Before anything runs, under its own name, and with a traceback that holds no secret."""
    with pytest.raises(ConfigurationError, match=words) as raised:
        kind(**settings)

    assert_silent(raised.value)


@pytest.mark.parametrize("kind", [VaultSecretsResource, ClientsResource, FakeVaultSecretsResource])
@pytest.mark.parametrize(("settings", "words"), UNUSABLE_LOGINS)
def test_logins_that_exclude_each_other_are_refused_when_they_are_given(
    kind: Any, settings: dict[str, Any], words: str
) -> None:
    """A variable may hold anything, so it contradicts nothing but a method that never reads it."""
    with pytest.raises(VaultConfigurationError, match=words) as raised:
        kind(**settings)

    assert_silent(raised.value)


@pytest.mark.parametrize(("settings", "words"), UNUSABLE_CLIENTS)
def test_settings_of_the_other_clients_are_checked_when_they_are_given(
    settings: dict[str, Any], words: str
) -> None:
    """By the checks that the clients have themselves."""
    with pytest.raises(ConfigurationError, match=words):
        ClientsResource(**settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        *UNUSABLE,
        ({"tokn": CANARY}, "tokn"),
        ({"timeout": "soon"}, "timeout"),
        ({"token": {"env": "A_TOKEN"}}, "which does not use token: set auth_method to 'token'"),
        ({"auth": {"method": "kubernetes", "rolle": {"env": "A_ROLE"}}}, "auth has no 'rolle'"),
    ],
)
def test_a_legacy_resource_is_checked_when_it_is_configured(
    settings: dict[str, Any], words: str
) -> None:
    """Dagster itself would find a misspelt field in the first run."""
    with pytest.raises((ConfigurationError, ValidationError), match=words) as raised:
        vault_secrets_resource.configured(settings)

    assert_silent(raised.value)


def test_what_only_variables_hold_is_not_checked_before_they_are_known() -> None:
    """A code location loads where nothing is set, in each form."""
    names = ("vault_addr", "role_id", "secret_id", "namespace", "auth_method")
    texts = ("local_role", "key_prefix", "database_role", "valkey_path")
    unset: dict[str, Any] = {name: EnvVar("UNSET") for name in names}

    VaultSecretsResource(**unset, timeout=EnvVar.int("UNSET"))
    unset |= {name: EnvVar("UNSET") for name in texts}
    unset["identity"] = {"tenant_id": EnvVar("UNSET")}
    ClientsResource(**unset, pool_size=EnvVar.int("UNSET"))
    ClientsResource(auth={"method": EnvVar("UNSET"), "role": EnvVar("UNSET")})
    vault_secrets_resource.configured({name: {"env": "UNSET"} for name in (*names, "timeout")})


def assert_silent(error: BaseException) -> None:
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    # The test's own frames have what it gave.
    ours = [one for one in shown.stack if Path(one.filename).parts[-2] != "unit"]
    assert ours
    assert CANARY not in f"{error!r} {error} {[one.locals for one in ours]}"
    assert error.__cause__ is None
    assert error.__context__ is None


@pytest.mark.parametrize("kind", [VaultSecretsResource, ClientsResource, FakeVaultSecretsResource])
def test_a_secret_that_is_assigned_shows_in_no_traceback(kind: Any) -> None:
    """Resources are frozen, and the error that says so does not repeat the value."""
    resource = kind(auth_method="token", token=CANARY)

    with pytest.raises(DagsterInvalidInvocationError, match="frozen") as raised:
        resource.token = f"{CANARY}-2"

    assert CANARY not in "".join(traceback.format_exception(raised.value))
    assert resource.token == CANARY


def test_secrets_stay_out_of_every_repr(kind: Any) -> None:
    """Neither the resource nor what it resolves to shows a secret."""
    for method in ("approle", "token"):
        config = kind(
            **BY_TOKEN | {"auth_method": method}, role_id="r", secret_id=CANARY, token=CANARY
        )

        assert CANARY not in f"{config!r} {config} {resolve(config)!r}"


def test_secret_fields_are_flagged_for_dagster(kind: Any) -> None:
    """Dagster masks the fields that are flagged, and no others hold secrets."""
    flagged = {
        field
        for field, info in kind.model_fields.items()
        if (info.json_schema_extra or {}).get("dagster__is_secret")
    }

    assert flagged == {"secret_id", "token"}


def test_from_env_takes_the_variables_that_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fields hold variables and no values; the login follows from what is there."""
    monkeypatch.setenv("VAULT_ADDR", "http://127.0.0.1:1")
    monkeypatch.setenv("VAULT_ROLE_ID", "r")
    monkeypatch.setenv("VAULT_SECRET_ID", CANARY)

    resource = VaultSecretsResource.from_env(cache_ttl=5)

    assert isinstance(resource.secret_id, EnvVar)
    assert (resource.auth_method, resource.token, resource.namespace) == ("approle", None, None)
    assert resource.cache_ttl == 5
    assert resolve(resource).secret_id == CANARY


def test_a_token_goes_before_a_role(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for VaultClient: where both are set, the token is used."""
    monkeypatch.setenv("VAULT_ADDR", "http://127.0.0.1:1")
    monkeypatch.setenv("VAULT_TOKEN", "t")
    monkeypatch.setenv("VAULT_ROLE_ID", "r")

    assert VaultSecretsResource.from_env().auth_method == "token"


@pytest.mark.parametrize(
    ("ambient", "given", "method"),
    [
        (["VAULT_ROLE_ID", "VAULT_SECRET_ID"], {"token": EnvVar("A_TOKEN")}, "token"),
        (["VAULT_TOKEN"], {"role_id": EnvVar("A_ROLE"), "secret_id": EnvVar("AN_ID")}, "approle"),
        (["VAULT_TOKEN"], {"role_id": "r"}, "approle"),
        ([], {"token": "t", "role_id": "r"}, "token"),
        (["VAULT_TOKEN", "VAULT_ROLE_ID"], {"token": None}, "approle"),
        (["VAULT_TOKEN"], {"role_id": "r", "auth_method": "token"}, "token"),
    ],
)
def test_credentials_that_are_spelled_out_go_before_ambient_ones(
    ambient: list[str], given: dict[str, Any], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for VaultClient: what the caller gives decides how to log in."""
    for name in ambient:
        monkeypatch.setenv(name, "ambient")

    assert VaultSecretsResource.from_env(**given).auth_method == method


def test_all_clients_go_to_the_address_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The agreed default is the other resource's: no login goes to a server that nobody named."""
    resource = ClientsResource(auth=Kubernetes("crm"))
    with pytest.raises(VaultConfigurationError, match=r"^vault_addr \(VAULT_ADDR\) not set"):
        resolve(resource)

    monkeypatch.setenv("VAULT_ADDR", "http://127.0.0.1:1")

    assert resolve(resource).vault_addr == "http://127.0.0.1:1"
    assert resolve(ClientsResource(vault_addr="http://127.0.0.1:2", auth=Agent())) != resolve(
        ClientsResource(auth=Agent())
    )
    assert resolve(VaultSecretsResource(auth=Agent())).vault_addr.startswith("https://vault.")


def test_a_token_without_its_method_is_told_which_it_is() -> None:
    """The default is the AppRole, which a reader of the message may not know."""
    config: Any = VaultSecretsResourceConfig(vault_addr="http://127.0.0.1:1", token="t")
    with pytest.raises(VaultConfigurationError, match=r"set auth_method to 'token'$"):
        resolve(config)

    with pytest.raises(VaultConfigurationError, match="set auth_method to 'token', or leave out"):
        VaultSecretsResource.from_config(config)
    assert VaultSecretsResource.from_config(config, auth_method="token").token == "t"


def test_from_env_lets_code_load_without_variables_and_names_them_at_use() -> None:
    """A code location is checked where no secrets are; the first use says what is missing."""
    resource = VaultSecretsResource.from_env()

    words = r"^vault_addr \(VAULT_ADDR\), token \(VAULT_TOKEN\) not set"
    with pytest.raises(VaultConfigurationError, match=words):
        resource.get_secret("app/db")


def test_the_health_check_never_raises(caplog: pytest.LogCaptureFixture) -> None:
    """Missing settings are an unhealthy Vault too; the log says what is wrong."""
    assert VaultSecretsResource.from_env().health_check() is False
    assert ClientsResource.from_env().health_check() is False
    assert FakeVaultSecretsResource(healthy=False).health_check() is False

    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3
    assert "VAULT_ADDR" in caplog.text


def test_the_health_check_does_not_raise_what_nobody_expects(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another's error is an unhealthy Vault, and only its class is logged."""

    def breaks(_: object) -> bool:
        raise RuntimeError(CANARY)

    monkeypatch.setattr("clients._dagster.fake.FakeVaultClient.health_check", breaks)

    assert FakeVaultSecretsResource().health_check() is False
    assert "the Vault health check failed: RuntimeError" in caplog.text
    assert CANARY not in caplog.text


@pytest.mark.parametrize("name", ["token", "secret_id"])
@pytest.mark.parametrize("kind", [VaultSecretsResourceConfig, VaultSecretsResource])
def test_a_literal_secret_is_in_no_pickle(
    kind: type[VaultSecretsResourceConfig], name: str
) -> None:
    """It would stand there in clear; the name of a variable may, and a copy stays possible."""
    method = "token" if name == "token" else "approle"
    literal = kind(**{"auth_method": method, name: "canary"})  # type: ignore[arg-type]  # mypy takes it for every field
    with pytest.raises(TypeError, match=f"{name} as text") as caught:
        pickle.dumps(literal)
    named = kind(**{"auth_method": method, name: EnvVar("SOME_VARIABLE")})  # type: ignore[arg-type]  # likewise

    assert "canary" not in str(caught.value)
    again = pickle.loads(pickle.dumps(named))  # noqa: S301 - our own bytes
    assert (type(again), getattr(again, name).env_var_name) == (kind, "SOME_VARIABLE")
    assert again.model_dump() == named.model_dump()
    assert getattr(literal.model_copy(), name) == "canary"

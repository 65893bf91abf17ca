"""The environment: read in one place, at call time, from any mapping."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path

import pytest

from clients._shared.environment import VaultSettings
from clients._shared.secrecy import Masked
from clients.errors import ConfigurationError
from utils._stack.settings import StackSettings, child_environment, forget_ambient_servers

ROOT = Path(__file__).parents[2]


_PLAIN = {
    "token_file": "VAULT_TOKEN_FILE",
    "namespace": "VAULT_NAMESPACE",
    "secret_id_file": "VAULT_SECRET_ID_FILE",
    "auth_method": "VAULT_AUTH_METHOD",
    "auth_role": "VAULT_AUTH_ROLE",
    "auth_mount": "VAULT_AUTH_MOUNT",
    "cacert": "VAULT_CACERT",
    "client_cert": "VAULT_CLIENT_CERT",
    "client_key": "VAULT_CLIENT_KEY",
}
_SECRET = {
    "addr": "VAULT_ADDR",  # some have a password in it, and are refused
    "token": "VAULT_TOKEN",
    "role_id": "VAULT_ROLE_ID",
    "secret_id": "VAULT_SECRET_ID",
    "wrapped_secret_id": "VAULT_WRAPPED_SECRET_ID",
}


def test_every_vault_variable_is_read() -> None:
    """Each from its own name, stripped; all but the switch are text."""
    names = _PLAIN | _SECRET
    read = VaultSettings.from_env({name: f" the {name}\n" for name in names.values()})

    assert {*names, "skip_verify"} == {one.name for one in fields(VaultSettings)}
    assert {one: getattr(read, one) for one in _PLAIN} == {
        one: f"the {name}" for one, name in _PLAIN.items()
    }
    assert {one: getattr(read, one).reveal() for one in _SECRET} == {
        one: f"the {name}" for one, name in _SECRET.items()
    }


@pytest.mark.parametrize("name", ["ADDR", "TOKEN", "NAMESPACE", "CACERT", "SKIP_VERIFY"])
def test_openbaos_own_name_counts_where_vaults_is_unset(name: str) -> None:
    """A machine that is set up for OpenBao's command line works as it is."""
    field = name.lower()

    def told(environ: dict[str, str]) -> object:
        value = getattr(VaultSettings.from_env(environ), field)
        return value.reveal() if isinstance(value, Masked) else value

    assert told({f"BAO_{name}": "1"}) == told({f"VAULT_{name}": "1"})
    assert told({f"BAO_{name}": "1", f"VAULT_{name}": "0"}) == told({f"VAULT_{name}": "0"})
    assert told({f"BAO_{name}": "1", f"VAULT_{name}": " "}) == told({f"VAULT_{name}": "1"})


@pytest.mark.parametrize("value", ["", "  ", None])
def test_empty_is_unset(value: str | None) -> None:
    """A variable that is set to nothing counts as missing."""
    environ = {} if value is None else {"VAULT_ADDR": value, "VAULT_TOKEN": value, "STACK": value}

    assert VaultSettings.from_env(environ) == VaultSettings()
    assert StackSettings.from_env(environ) == StackSettings()


def test_the_processs_environment_is_read_at_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when the module is imported."""
    for address in ("http://one", "http://two"):
        monkeypatch.setenv("VAULT_ADDR", address)
        assert VaultSettings.from_env().addr == Masked(address)


@pytest.mark.parametrize("word", ["1", "TRUE", "t", "yes", " on "])
def test_true_has_many_words(word: str) -> None:
    """As HashiCorp's own tools take them, in any case."""
    assert VaultSettings.from_env({"VAULT_SKIP_VERIFY": word}).skip_verify


@pytest.mark.parametrize("word", ["0", "False", "f", "no", " off", ""])
def test_false_has_many_words(word: str) -> None:
    """Nothing at all is false, too."""
    assert not VaultSettings.from_env({"VAULT_SKIP_VERIFY": word}).skip_verify


@pytest.mark.parametrize("word", ["maybe", "2", "truee", "-"])
def test_an_unknown_word_is_refused_by_name(word: str) -> None:
    """A typing error must not turn verification off, or leave it on unnoticed."""
    with pytest.raises(ConfigurationError, match=f"VAULT_SKIP_VERIFY is '{word}'"):
        VaultSettings.from_env({"VAULT_SKIP_VERIFY": word})


def test_secrets_stay_out_of_the_repr() -> None:
    """Token and secret id do not show; the rest does."""
    environ = {"VAULT_NAMESPACE": "team-a"} | dict.fromkeys(_SECRET.values(), "hunter2")
    shown = repr(VaultSettings.from_env(environ))

    assert "hunter" not in shown
    assert "team-a" in shown


@pytest.mark.parametrize("kind", ["embedded", "docker", "external"])
def test_the_stack_is_one_of_three(kind: str) -> None:
    """With the ports that Docker shall publish."""
    read = StackSettings.from_env({"STACK": kind, "SDK_POSTGRES_PORT": "15432"})

    assert read == StackSettings(kind=kind, postgres_port=15432)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STACK", "Docker"),
        ("STACK", "podman"),
        *[("SDK_VAULT_PORT", port) for port in ("0", "65536", "-1", "1.5", "x", "\u0661")],
    ],
)
def test_an_unusable_stack_setting_is_refused_by_name(name: str, value: str) -> None:
    """The message has the name and the value."""
    with pytest.raises(ConfigurationError, match=name) as caught:
        StackSettings.from_env({name: value})

    assert repr(value) in str(caught.value)


def test_a_child_gets_one_vault_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing ambient that leads to servers mixes with another server's; all else stays."""
    for name in ("VAULT_NAMESPACE", "BAO_ADDR", "PGOPTIONS", "REDIS_URL", "VALKEY_URL"):
        monkeypatch.setenv(name, "ambient")
    monkeypatch.setenv("OTHER", "stays")

    child = child_environment({"VAULT_ADDR": "http://v"})
    assert child["VAULT_ADDR"] == "http://v"
    assert "ambient" not in child.values()
    assert child["OTHER"] == "stays"
    assert child_environment({})["VAULT_NAMESPACE"] == "ambient"


def test_ambient_servers_are_forgotten_and_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What leads to servers leaves the process's environment, and only that."""
    for name in ("VAULT_TOKEN", "PGSSLMODE", "OTHER"):
        monkeypatch.setenv(name, "ambient")

    removed = forget_ambient_servers()

    assert removed == {"VAULT_TOKEN": "ambient", "PGSSLMODE": "ambient"}
    assert [name for name in removed if name in os.environ] == []
    assert os.environ["OTHER"] == "ambient"
